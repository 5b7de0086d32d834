#!/usr/bin/env bash
# Run the test suite, after setting up what it needs: see --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup=()
while [ $# -gt 0 ]; do
  case $1 in
    --stack) setup+=("$1" "${2:-}"); shift $(($# > 1)) ;;
    --isolated) setup+=("$1") ;;
    -h | --help)
      cat <<'EOF'
Usage: tools/run_tests.sh [--stack onedl|openmmlab] [--isolated] [PYTEST ARGS]

Sets the environment up where it is not (see tools/setup_env.sh --help, also
for the options), checks the code with ruff and runs the tests, all of them or
those that the arguments for pytest select.
EOF
      exit 0 ;;
    *) break ;;
  esac
  shift
done

"$root/tools/setup_env.sh" "${setup[@]+"${setup[@]}"}"
bin=$("$root/tools/setup_env.sh" "${setup[@]+"${setup[@]}"}" --path)/bin
cd "$root"
"$bin/ruff" check .
"$bin/ruff" format --check .
exec "$bin/python" -m pytest "$@"
