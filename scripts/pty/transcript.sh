#!/bin/sh
# Shows a chat as a terminal shows it: types into the real program through tmux and prints the screen.
# usage: transcript.sh FATHOM [MODEL]
set -eu
fathom=$(realpath "$1")
model=${2:-}
state=$(mktemp -d)
socket=fathom-transcript-$$
trap 'tmux -L "$socket" kill-server 2>/dev/null || true; rm -rf "$state"' EXIT
tmux -L "$socket" -f /dev/null new-session -d -x 88 -y 44 "env XDG_STATE_HOME=$state PS1='\$ ' sh"
type() {
  tmux -L "$socket" send-keys -- "$1" Enter
  sleep "$2"
}
sleep 0.5
tmux -L "$socket" send-keys "alias fathom='$fathom'; clear" Enter
sleep 0.5
type "fathom chat${model:+ -m $model}" 3
type 'What is 37 + 24?' 3
type 'And times two?' 3
type '/think off' 1
type 'Is 91 prime?' 3
type '/tokens' 1
type '/exit' 1
type 'fathom run -m "'"$model"'" "What is 12 * 3?" > answer.txt; cat answer.txt' 3
tmux -L "$socket" capture-pane -p
