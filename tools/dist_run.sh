#!/usr/bin/env bash
# Code shared by dist_train.sh and dist_test.sh: TOOL N ARGS... runs N processes
# of a tool on this node. See dist_train.sh --help.
set -euo pipefail

[ $# -ge 2 ] || { echo 'see dist_train.sh --help' >&2; exit 2; }
tool=$1 n=$2
shift 2
case $n in
  '' | *[!0-9]* | 0)
    echo "the number of processes is 1 or more, not '$n' (see --help)" >&2
    exit 2 ;;
esac
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
  # A free port, so that jobs on one machine do not collide.
  where=(--standalone)
else
  where=(--nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi
if ! nvidia-smi -L >/dev/null 2>&1; then
  # The processes share the cores; torchrun's default is one core for each.
  cores=$(getconf _NPROCESSORS_ONLN)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > n ? cores / n : 1))}
  # glibc returns large freed blocks to the system. The page faults of the next
  # step then take up to a fifth of the time for large images.
  if [[ ${GLIBC_TUNABLES-} != *glibc.malloc* &&
    -z ${MALLOC_TRIM_THRESHOLD_+set}${MALLOC_MMAP_THRESHOLD_+set} ]]; then
    export MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=33554432
  fi
fi
# torchrun prints a page after a process has failed, or after Ctrl-C. This
# leaves it out, since the processes have printed what happened.
torchrun='
import logging, sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
logging.disable(logging.WARNING)
try:
    main()
except SignalException as error:
    sys.exit(128 + error.sigval)
except KeyboardInterrupt:
    sys.exit(130)
except ChildFailedError as error:
    rank, failure = error.get_first_failure()
    sys.exit(f"rank {rank} failed first, with exit code {failure.exitcode}")
'
exec "${PYTHON:-python}" -c "$torchrun" "${where[@]}" --nproc_per_node "$n" \
  "$(dirname "${BASH_SOURCE[0]}")/$tool" "$@" --launcher pytorch
