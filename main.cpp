#include "src/app/app.h"

int main(int argc, char** argv) { return fathom::app_main(argc, argv); }
