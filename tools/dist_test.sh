#!/usr/bin/env bash
set -euo pipefail
if [ $# -lt 3 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  cat <<'USAGE'
Usage: tools/dist_test.sh CONFIG CHECKPOINT N [ARGUMENTS OF tools/test.py]

Evaluates in N processes, on GPUs or the CPU. For several machines, see
tools/dist_train.sh --help.
USAGE
  case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" test.py "$3" "$1" "$2" "${@:4}"
