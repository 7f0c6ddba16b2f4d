#!/bin/sh
# Fuzzes every target of the fuzz program for some seconds each, from the seeds in tests/fuzz/corpus/TARGET and what earlier
# runs found in build/fuzz-corpus/TARGET, with tests/fuzz/TARGET.dict. Findings go to build/fuzz-findings/TARGET.
# usage: fuzz.sh PROGRAM SECONDS [TARGET]
set -u
program=$1
seconds=$2
only=${3:-}
# Targets that need files write them to memory.
[ -z "${TMPDIR:-}" ] && [ -d /dev/shm ] && export TMPDIR=/dev/shm
bad=0
total=0
for name in $("$program" --targets); do
  [ -z "$only" ] || [ "$only" = "$name" ] || continue
  work=build/fuzz-corpus/$name
  findings=build/fuzz-findings/$name
  mkdir -p "$work" "$findings"
  set -- "$work"
  [ -d "tests/fuzz/corpus/$name" ] && set -- "$@" "tests/fuzz/corpus/$name"
  [ -f "tests/fuzz/$name.dict" ] && set -- "-dict=tests/fuzz/$name.dict" "$@"
  FATHOM_FUZZ_TARGET=$name "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
    -print_final_stats=1 -artifact_prefix="$findings/" "$@" >"$findings/log" 2>&1
  status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$findings/log")
  edges=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$findings/log" | tail -n 1)
  total=$((total + ${runs:-0}))
  if [ "$status" -eq 0 ]; then
    printf '%-18s %12s executions %8s edges, no finding\n' "$name" "${runs:-?}" "${edges:-?}"
  else
    bad=$((bad + 1))
    printf '%-18s FINDING: see %s\n' "$name" "$findings"
    grep -m 3 -E 'ERROR|runtime error|broken promise|SUMMARY' "$findings/log"
  fi
done
echo "$total executions, $bad targets with findings"
[ "$bad" -eq 0 ]
