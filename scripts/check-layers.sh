#!/bin/sh
# Holds the layering: base < model < engine < app; tokenizer on base only; cuda never on app; lint of banned calls.
set -u
bad=0
# forbid DIRECTORY-GLOB PATTERN WHY: no file there may include a header that matches.
forbid() {
  hits=$(grep -nE "^#include \"($2)" $1 2>/dev/null)
  [ -z "$hits" ] || { printf 'layering: %s\n%s\n' "$3" "$hits"; bad=1; }
}
forbid "src/base/*" 'src/(model|engine|app|cpu)/|src/stage|tokenizer/|cuda/' 'src/base depends on nothing'
forbid "src/model/*" 'src/(engine|app|cpu)/|src/stage|tokenizer/|cuda/' 'src/model depends on base'
forbid "src/stage.h src/stage.cpp" 'src/(engine|app|cpu)/|tokenizer/|cuda/' 'the contract depends on model'
forbid "src/engine/*" 'src/app/' 'src/engine never includes app'
forbid "src/cpu/*" 'src/app/|cuda/|tokenizer/' 'src/cpu depends on engine, model, base'
forbid "tokenizer/*" 'src/(model|engine|app|cpu)/|src/stage|cuda/' 'tokenizer depends on base only'
forbid "cuda/*" 'src/app/|tokenizer/' 'cuda never includes app code'
hits=$(grep -nE '^#include "src/cpu/' cuda/* 2>/dev/null | grep -v 'src/cpu/experts.h')
[ -z "$hits" ] || { printf 'layering: cuda includes of src/cpu only experts.h\n%s\n' "$hits"; bad=1; }
hits=$(grep -rnE '^#include "cuda/' src main.cpp | grep -v '"cuda/device.h"')
[ -z "$hits" ] || { printf 'layering: src includes of cuda only device.h\n%s\n' "$hits"; bad=1; }
# Numbers are read with from_chars: these follow the locale or swallow errors.
hits=$(grep -rnE '\b(strtod|strtof|strtol|strtoul|strtoull|stod|stof|stoi|stol|stoul|stoull|atof|atoi|sscanf)[[:space:]]*\(' \
  src tokenizer cuda main.cpp 2>/dev/null)
[ -z "$hits" ] || { printf 'lint: use std::from_chars\n%s\n' "$hits"; bad=1; }
[ "$bad" -eq 0 ] && echo "check: layering and lint hold"
exit "$bad"
