#!/usr/bin/env bash
set -euo pipefail
if [ $# -lt 2 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  cat <<'USAGE'
Usage: tools/dist_train.sh CONFIG N [ARGUMENTS OF tools/train.py]

Trains in N processes: one for each GPU of this machine, or on the CPU if it
has no GPU.

For several machines, run the same command on each, with these variables:
  NNODES       number of machines [1]
  NODE_RANK    number of this machine, from 0 [0]
  MASTER_ADDR  address of machine 0 [127.0.0.1]
  PORT         a free port of machine 0 [29500; a free one for NNODES=1]

PYTHON is the Python to run [python].
USAGE
  case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" train.py "$2" "$1" "${@:3}"
