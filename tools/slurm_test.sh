#!/usr/bin/env bash
set -euo pipefail
if [ $# -lt 4 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  cat <<'USAGE'
Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENTS OF tools/test.py]

Evaluates on a Slurm cluster; see tools/slurm_train.sh --help.
USAGE
  case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
exec "$(dirname "${BASH_SOURCE[0]}")/slurm_run.sh" test.py "$@"
