#!/bin/sh
# Installs what fathom needs to build and test on Debian 12 or Ubuntu 24.04, and nothing that is already there.
# Never installs CUDA: without nvcc the Makefile builds the CPU-only program.
set -eu

PACKAGES="g++ make libcli11-dev libfmt-dev libsentencepiece-dev doctest-dev nlohmann-json3-dev libedit-dev
          libbsd-dev libncurses-dev libmd-dev libutf8proc-dev libpcre2-dev zlib1g-dev"

missing=""
for p in $PACKAGES; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

echo "fathom needs these packages:$missing" >&2
if [ "$(id -u)" = 0 ]; then SUDO=""; elif command -v sudo >/dev/null 2>&1; then SUDO="sudo"; else
  echo "Install them as root: apt-get install$missing" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$SUDO apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 ||
  { $SUDO apt-get update && $SUDO apt-get install -y --no-install-recommends $missing; } >&2
