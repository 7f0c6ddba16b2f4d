#!/bin/sh
# Turns `nvcc -Xptxas -v` output on stdin into one line per kernel. usage: ptxas-table.sh FILE
awk -v file="$1" '
  /Compiling entry function/ { match($0, /\047[^\047]+\047/); name = substr($0, RSTART + 1, RLENGTH - 2);
                               match($0, /for \047[^\047]+\047/); arch = substr($0, RSTART + 5, RLENGTH - 6) }
  /spill stores/ { spills = $0; gsub(/^ +/, "", spills) }
  /Used [0-9]+ registers/ { sub(/^.*Used/, "used"); printf "%-24s %-8s %-60s %s; %s\n", file, arch, name, $0, spills }'
