#!/bin/sh
# Line and branch coverage, by the tests alone, of the code that reads untrusted bytes or plans memory.
# Branches that only exception unwinding takes are not counted. usage: coverage.sh BUILD_DIRECTORY
set -eu
build=$1
printf '%-36s %8s %9s\n' file lines branches
for source in src/base/json.cpp src/base/file.cpp src/base/text.cpp src/model/safetensors.cpp src/model/shards.cpp \
  src/model/checkpoint.cpp src/model/config.cpp src/model/json_fields.cpp src/model/binder.cpp src/model/weights.cpp \
  src/engine/placement.cpp src/engine/gpu_placement.cpp src/engine/generation_config.cpp src/engine/channels.cpp \
  src/app/sanitiser.cpp src/app/session.cpp src/app/session_cache.cpp src/app/history.cpp src/app/config_file.cpp \
  src/app/parse.cpp src/app/input.cpp src/app/batch.cpp tokenizer/*.cpp; do
  object=$build/${source%.cpp}.gcda
  [ -f "$object" ] || continue
  gcov -b -t "$object" 2>/dev/null | awk -v file="$source" '
    /^ *-: *0:Source:/ { split($0, part, "Source:"); in_file = (part[2] == file); next }
    !in_file { next }
    /^function / { next }
    /^branch/ {
      if ($0 ~ /\(throw\)/) next
      branches++
      if ($0 !~ /never executed/ && $0 !~ /taken 0/) taken++
      next
    }
    /^ *#####:/ { lines++; next }
    /^ *[0-9]+\*?:/ { lines++; hit++ }
    END { printf "%s %d %d %d %d\n", file, lines, hit, branches, taken }'
done | awk '{ printf "%-36s %7.1f%% %8.1f%%\n", $1, $2 ? 100 * $3 / $2 : 0, $4 ? 100 * $5 / $4 : 0; l += $2; h += $3; b += $4; t += $5 }
     END { if (b) printf "%-36s %7.1f%% %8.1f%%\n", "all", 100 * h / l, 100 * t / b }'
