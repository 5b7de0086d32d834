#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: TOOL N ARGS... runs N processes of
# a tool on this node. See dist_train.sh --help.
set -euo pipefail

tool=$1 n=$2
shift 2
case $n in
  '' | *[!0-9]* | 0)
    echo "the number of processes is 1 or more, not '$n' (see --help)" >&2
    exit 2 ;;
esac
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
  # Takes a free port, so that jobs on one machine do not meet.
  where=(--standalone)
else
  where=(--nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi
# On the CPU the processes share the cores; torchrun's default is one for each.
if ! nvidia-smi -L >/dev/null 2>&1; then
  cores=$(getconf _NPROCESSORS_ONLN)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > n ? cores / n : 1))}
fi
# torchrun, without the page that it prints when a process has failed: what
# went wrong stands before it.
torchrun='
import sys
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main()
except ChildFailedError as error:
    rank, failure = error.get_first_failure()
    sys.exit(f"rank {rank} failed first, with exit code {failure.exitcode}")
'
exec "${PYTHON:-python}" -c "$torchrun" "${where[@]}" --nproc_per_node "$n" \
  "$(dirname "${BASH_SOURCE[0]}")/$tool" "$@" --launcher pytorch
