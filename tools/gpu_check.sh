#!/usr/bin/env bash
set -euo pipefail
if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'USAGE'
Usage: tools/gpu_check.sh [CHECK ...] [--device cuda] [--out gpu_check]

Checks HAT-Net on this GPU in minutes: precision, training, DDP, CUDA graphs,
memory, compiling. Prints a verdict for each, and writes report.md and
report.json. The exit status says whether all passed.
A CHECK is a name in the report, such as versions or "CUDA graphs" [all].
PYTHON chooses the Python [python].
USAGE
  exit 0
fi
exec "${PYTHON:-python}" -m mmhatnet.gpu_check "$@"
