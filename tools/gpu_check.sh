#!/usr/bin/env bash
set -euo pipefail
if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'USAGE'
Usage: tools/gpu_check.sh [--device cuda] [--out gpu_check] [PYTEST ARGS]

Checks HAT-Net on this GPU in minutes: precision, training, DDP, CUDA graphs,
memory, compiling. Runs the tests of tests/test_gpu.py, and writes report.md
and report.json. The exit status says whether all passed.
PYTEST ARGS select tests, such as -k "parity or compile" [all].
PYTHON chooses the Python [python], of an environment with pytest:
tools/setup_env.sh --tests.
USAGE
  exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -e "$root/tests/test_gpu.py" ]; then
  echo 'gpu_check.sh: error: no tests here: run it in a clone of mmhatnet' >&2
  exit 1
fi
export PYTHONPATH="$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m pytest -p gpu_report -m gpu -v --tb=short \
  "$root/tests/test_gpu.py" "$@"
