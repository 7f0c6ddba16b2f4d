#!/bin/sh
# Shows the main job: a question to the built-in model, its thinking on stderr, its answer on stdout.
# usage: demo.sh FATHOM
set -eu
question="What is 37 * 24?"
echo "\$ fathom run \"$question\""
"$1" run --show-thinking=full "$question"
