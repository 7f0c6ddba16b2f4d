#!/bin/sh
# Writes an assembler file that puts every file of a model directory into the executable, each on a 64-byte border,
# and a table of them (src/app/builtin.cpp reads it). usage: embed.sh DIRECTORY > embed.S
set -eu
directory=$1
echo '  .section .rodata.fathom_model, "a", @progbits'
table=""
i=0
for file in "$directory"/*; do
  name=$(basename "$file")
  case $name in *.md | questions.jsonl) continue ;; esac # for people and for `fathom eval`, not for running
  printf '  .balign 64\nfathom_file_%d:\n  .incbin "%s"\nfathom_file_%d_end:\nfathom_name_%d:\n  .asciz "%s"\n' \
    $i "$file" $i $i "$name"
  table="$table  .quad fathom_name_$i, fathom_file_$i, fathom_file_${i}_end
"
  i=$((i + 1))
done
# Addresses are relocated at start, so the table is not in .rodata.
printf '  .section .data.rel.ro, "aw", @progbits\n  .balign 8\n  .globl fathom_embedded_files\nfathom_embedded_files:\n'
printf '%s  .quad 0, 0, 0\n' "$table"
echo '  .section .note.GNU-stack, "", @progbits'
