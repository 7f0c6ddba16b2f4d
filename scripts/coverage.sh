#!/bin/sh
# Line and branch coverage, by the tests alone, of the code that reads untrusted bytes or plans memory. A branch is one
# outcome of a condition in the source, as clang's source-based coverage counts them: what the compiler adds for exceptions
# is none. usage: coverage.sh BUILD_DIRECTORY [FILE...]: with files, the lines whose conditions have an outcome never taken.
set -eu
build=$1
shift
llvm-profdata merge -o "$build/profile" "$build"/profile-*.profraw
if [ $# -gt 0 ]; then
  for source in "$@"; do
    echo "$source"
    llvm-cov show "$build/tests/all" -object "$build/fathom" -instr-profile="$build/profile" --show-branches=count "$source" | awk '
      /^ +[0-9]+\|/ { text = $0; sub(/^ +/, "", text); split(text, part, "|"); line[part[1]] = text }
      /Branch \(/ && /(True|False): 0[],]/ {
        match($0, /\([0-9]+:[0-9]+\)/)
        split(substr($0, RSTART + 1, RLENGTH - 2), at, ":")
        print "  " line[at[1]]
        printf "      column %s never%s%s\n", at[2], $0 ~ /True: 0[],]/ ? " true" : "", $0 ~ /False: 0[],]/ ? " false" : ""
      }'
  done
  exit 0
fi
sources="src/base/json.cpp src/base/file.cpp src/base/text.cpp src/model/safetensors.cpp src/model/shards.cpp
  src/model/checkpoint.cpp src/model/config.cpp src/model/json_fields.cpp src/model/binder.cpp src/model/weights.cpp
  src/engine/placement.cpp src/engine/gpu_placement.cpp src/engine/generation_config.cpp src/engine/channels.cpp
  src/app/sanitiser.cpp src/app/session.cpp src/app/session_cache.cpp src/app/history.cpp src/app/config_file.cpp
  src/app/parse.cpp src/app/input.cpp src/app/batch.cpp $(echo tokenizer/*.cpp)"
printf '%-36s %8s %10s %6s\n' file lines branches taken
# shellcheck disable=SC2086
llvm-cov report "$build/tests/all" -object "$build/fathom" -instr-profile="$build/profile" -show-region-summary=false \
  $sources | awk 'NF >= 9 && $NF ~ /%/ { printf "%-36s %8s %10d %6s\n", $1, $(NF - 3), $(NF - 2), $NF }'
