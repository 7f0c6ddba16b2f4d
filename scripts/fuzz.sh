#!/bin/sh
# Runs every fuzz program of a directory for some seconds, seeded from tests/fuzz/corpus/NAME, with tests/fuzz/NAME.dict.
# usage: fuzz.sh DIRECTORY SECONDS [NAME]
set -u
dir=$1
seconds=$2
only=${3:-}
bad=0
total=0
for program in "$dir"/fuzz_*; do
  [ -f "$program" ] && [ -x "$program" ] || continue
  name=$(basename "$program")
  case "$name" in *.o|*.d) continue ;; esac
  [ -z "$only" ] || [ "$only" = "$name" ] || [ "fuzz_$only" = "$name" ] || continue
  work=build/fuzz-corpus/$name
  findings=build/fuzz-findings/$name
  mkdir -p "$work" "$findings"
  seeds=tests/fuzz/corpus/$name
  [ -d "$seeds" ] || seeds=""
  dict=tests/fuzz/$name.dict
  [ -f "$dict" ] && dict="-dict=$dict" || dict=""
  # shellcheck disable=SC2086
  "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 $dict \
    -artifact_prefix="$findings/" "$work" $seeds >"$findings/log" 2>&1
  status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$findings/log")
  total=$((total + ${runs:-0}))
  if [ "$status" -eq 0 ]; then
    printf '%-28s %12s executions, no finding\n' "$name" "${runs:-?}"
  else
    bad=$((bad + 1))
    printf '%-28s FINDING: see %s\n' "$name" "$findings"
    grep -m 3 -E 'ERROR|runtime error|SUMMARY' "$findings/log"
  fi
done
echo "$total executions, $bad targets with findings"
[ "$bad" -eq 0 ]
