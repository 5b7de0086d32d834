#!/usr/bin/env bash
# Set up an environment and run the tests in it: see --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup=(--tests)
while [ $# -gt 0 ]; do
  case $1 in
    --stack) setup+=("$1" "${2:-}"); shift $(($# > 1)) ;;
    --isolated) setup+=("$1") ;;
    -h | --help)
      cat <<'EOF'
Usage: tools/run_tests.sh [--stack onedl|openmmlab] [--isolated] [PYTEST ARGS]

Sets up the environment (for the options, see tools/setup_env.sh --help), checks
the code with ruff and runs the tests: all of them, or those that PYTEST ARGS
select, such as -m "not slow". Up to eight processes share the tests; -n 0 runs
them in one.
EOF
      exit 0 ;;
    *) break ;;
  esac
  shift
done

"$root/tools/setup_env.sh" "${setup[@]}"
bin=$("$root/tools/setup_env.sh" "${setup[@]}" --path)/bin
cd "$root"
"$bin/ruff" check .
"$bin/ruff" format --check .
# Each process holds the libraries and some models.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$bin/python" -m pytest -n logical --maxprocesses 8 --dist worksteal "$@"
