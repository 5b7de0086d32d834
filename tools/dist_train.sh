#!/usr/bin/env bash
set -euo pipefail
if [ $# -lt 2 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  cat <<'USAGE'
Usage: tools/dist_train.sh CONFIG N [ARGUMENTS OF tools/train.py]

Trains in N processes: one for each GPU of this machine, or, where there is
none, on the CPU.

Several machines: run the same command on each, with these set.
  NNODES       number of machines [1]
  NODE_RANK    which of them this is, from 0 [0]
  MASTER_ADDR  address of machine 0 [127.0.0.1]
  PORT         a free port of machine 0 [29500; a free one for NNODES=1]

PYTHON is the Python to use [python].
USAGE
  case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" train.py "$2" "$1" "${@:3}"
