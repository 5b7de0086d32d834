#!/usr/bin/env bash
set -euo pipefail
case ${1:-} in
  -h | --help)
    echo 'Usage: tools/gpu_check.sh [CHECK ...] [--device cuda] [--out gpu_check]'
    echo
    echo 'Checks HAT-Net on this GPU in minutes: precision, training, DDP,'
    echo 'compiling, memory. Prints a verdict for each, and writes report.md and'
    echo 'report.json. PYTHON chooses the Python [python].' ;;
  *) exec "${PYTHON:-python}" -m mmhatnet.gpu_check "$@" ;;
esac
