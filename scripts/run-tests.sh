#!/bin/sh
# Runs the test program and ends with the one line that CI reads: "N passed, N failed".
# usage: run-tests.sh TEST_PROGRAM [doctest options]
set -u
program=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$program" --no-intro --no-version "$@" >"$log" 2>&1
status=$?
cat "$log"
cases=$(grep '^\[doctest\] test cases:' "$log" | tail -n 1)
passed=$(printf '%s' "$cases" | sed -n 's/.*| *\([0-9]*\) passed.*/\1/p')
failed=$(printf '%s' "$cases" | sed -n 's/.*| *\([0-9]*\) failed.*/\1/p')
if [ -z "$passed" ]; then # it crashed before the summary
  passed=0
  failed=1
fi
[ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "$passed passed, $failed failed"
[ "$status" -eq 0 ] && [ "$failed" -eq 0 ]
