#!/usr/bin/env bash
# Code shared by slurm_train.sh and slurm_test.sh: TOOL PARTITION JOB_NAME
# ARGS... See slurm_train.sh --help.
set -euo pipefail

[ $# -ge 3 ] || { echo 'see slurm_train.sh --help' >&2; exit 2; }
command -v srun > /dev/null || {
  echo 'srun is missing: without Slurm, use dist_train.sh and dist_test.sh' >&2
  exit 1
}
tool=$1 partition=$2 job_name=$3
shift 3
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
gres=()
[ "$GPUS_PER_NODE" = 0 ] || gres=(--gres "gpu:$GPUS_PER_NODE" --ntasks-per-node "$GPUS_PER_NODE")
# SRUN_ARGS may hold several words.
# shellcheck disable=SC2086
exec srun --partition "$partition" --job-name "$job_name" "${gres[@]}" --ntasks "$GPUS" \
  --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/$tool" "$@" --launcher slurm
