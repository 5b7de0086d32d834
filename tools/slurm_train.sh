#!/usr/bin/env bash
set -euo pipefail
if [ $# -lt 3 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  cat <<'USAGE'
Usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGUMENTS OF tools/train.py]

Trains on a Slurm cluster. With --resume among the arguments, a job that is
queued again continues where it stopped.

  GPUS           number of processes [8]
  GPUS_PER_NODE  GPUs on each node [8, or GPUS if fewer]; 0 for none
  CPUS_PER_TASK  cores for each process [5]
  SRUN_ARGS      more arguments for srun
  PYTHON         the Python to run [python]
USAGE
  case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
exec "$(dirname "${BASH_SOURCE[0]}")/slurm_run.sh" train.py "$@"
