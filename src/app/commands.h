// One function per command; each is in the file of its name.
#pragma once

#include "src/app/app.h"

namespace fathom {

Exit run_command(App& app);
Exit tokenize_command(App& app);
Exit inspect_command(App& app);
Exit models_command(App& app);
Exit verify_command(App& app);
Exit bench_command(App& app);
Exit quantize_command(App& app);
Exit eval_command(App& app);
Exit help_command(App& app);
Exit completions_command(App& app);

}  // namespace fathom
