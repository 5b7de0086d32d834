#!/usr/bin/env bash
# Make an environment for mmhatnet on a bare machine: see --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: tools/setup_env.sh [--stack onedl|openmmlab] [--python 3.12] [--isolated]
                          [--compiled] [--tests] [--path]

Creates a virtual environment with torch, mmcv, mmengine, mmsegmentation,
mmdetection, mmpretrain and this checkout of mmhatnet (editable). Nothing is
compiled. If the environment exists, missing packages are added. Running it again
is quick and changes nothing.

  --stack onedl      the maintained OneDL packages (default), in .venv
  --stack openmmlab  the original OpenMMLab packages, in .venv-openmmlab
                     (Python 3.10 or 3.11)
  --python 3.12      make the environment with this installed Python, a version
                     or a command, instead of PYTHON
  --isolated         install the tested torch even if PYTHON already has a
                     torch; openmmlab always does this, because it does not work
                     with a recent torch
  --compiled         add mmcv's compiled operators, from a wheel that pip finds or
                     by compiling them for minutes; without them, torchvision's
                     are used (docs/operators.md)
  --tests            add what tools/run_tests.sh needs
  --path             print the folder of the environment, and do nothing else

Environment variables, with [defaults]:
  PYTHON          the Python (>= 3.10) that makes the environment [python3; for
                  openmmlab the first of python3, python3.11 and python3.10 that
                  is old enough]
  MMHATNET_VENV   the folder of the environment; it may already exist
  PIP_...         what pip reads, such as PIP_FIND_LINKS

A torch that is already in MMHATNET_VENV or in PYTHON is never replaced.
EOF
}

say() { printf '[setup %4ds] %s\n' "$SECONDS" "$*"; }
die() { printf 'setup_env.sh: %s\n' "$*" >&2; exit 1; }

stack=onedl isolated=0 compiled=0 tests=0 path_only=0 wanted=''
while [ $# -gt 0 ]; do
  case $1 in
    --stack) stack=${2:-}; shift $(($# > 1)) ;;
    --python)
      wanted=${2:-}
      case $wanted in
        '') die '--python needs a version or a command' ;;
        [0-9]*) wanted=python$wanted ;;
      esac
      PYTHON=$wanted
      shift ;;
    --isolated) isolated=1 ;;
    --compiled) compiled=1 ;;
    --tests) tests=1 ;;
    --path) path_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
case $stack in
  onedl) suffix='' mmcv=onedl-mmcv ;;
  openmmlab) suffix=-openmmlab mmcv=mmcv isolated=1 ;;
  *) die "--stack is 'onedl' or 'openmmlab', not '$stack'" ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/tools/watch.sh"
venv=${MMHATNET_VENV:-$root/.venv$suffix}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
[ $path_only = 0 ] || { echo "$venv"; exit 0; }
base_python=${PYTHON:-}
if [ -z "$base_python" ]; then
  base_python=python3
  # torch 2.1 has no wheels for a newer Python.
  if [ $stack = openmmlab ]; then
    for name in python3 python3.11 python3.10; do
      if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' 2>/dev/null; then
        base_python=$name
        break
      fi
    done
  fi
fi
py=$venv/bin/python
tested=$root/requirements/tested_$stack.txt
pinned() { sed -n "s/^$1==//p" "$tested"; }
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ -n "$wanted" ] && [ -x "$py" ]; then
  version='import sys; print("Python %d.%d" % sys.version_info[:2])'
  has=$("$py" -c "$version")
  [ "$has" = "$("$wanted" -c "$version" 2>/dev/null)" ] \
    || die "$venv has $has, not $wanted: remove it, or set MMHATNET_VENV to another folder"
fi

# Print everything that the environment depends on. If nothing changed since the
# last run, there is nothing to do.
made_from() {
  cat "$root"/requirements/*.txt "$root/setup.py" "$root/mmhatnet/version.py" "${BASH_SOURCE[0]}"
  echo "$root"
  "$py" -c 'import sys; print(sys.version)'
}
# The operators that mmcv has compiled, and not those in their place.
mmcv_works() {
  "$py" -c 'import mmcv._ext, torch
from mmcv.ops import nms
assert len(nms(torch.rand(1, 4), torch.ones(1), 0.5)[1]) == 1' 2>/dev/null
}
stamp=$venv/.mmhatnet-$stack # is there while the environment is complete
is_current() { [ -f "$1" ] && [ "$(made_from | cksum)" = "$(cat "$1")" ]; }
if [ -x "$py" ] && [ -e "$root/mmhatnet/.mim/configs" ] \
    && { is_current "$stamp-tests" || { [ $tests = 0 ] && is_current "$stamp"; }; } \
    && { [ $compiled = 0 ] || mmcv_works; }; then
  echo "The environment in $venv is up to date."
  exit 0
fi

# --- 1. the environment ------------------------------------------------------
if [ ! -x "$py" ]; then
  command -v "$base_python" >/dev/null \
    || die "no '$base_python': install Python >= 3.10 or set PYTHON to one"
  "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || die "$("$base_python" --version) is too old: set PYTHON to a Python >= 3.10"
  if [ $stack = openmmlab ]; then
    "$base_python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' \
      || die "torch $(pinned torch) needs Python 3.10 or 3.11, not $("$base_python" --version): install one, or set PYTHON to it"
  fi
  site=()
  if [ $isolated = 0 ] && "$base_python" -c 'import torch' 2>/dev/null; then
    if "$base_python" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
      site=(--system-site-packages)
    else
      echo "Note: $base_python belongs to a virtual environment that has torch;" \
        "MMHATNET_VENV=$("$base_python" -c 'import sys; print(sys.prefix)') would install there and keep that torch."
    fi
  fi
  say "1/3 making the environment $venv (seconds)"
  "$base_python" -m venv "${site[@]+"${site[@]}"}" "$venv"
fi
# Environments made by uv have no pip, and neither have incomplete ones.
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip >/dev/null \
  || die "there is no pip in $venv, and ensurepip could not install it"

rm -f "$stamp" "$stamp-tests"
log=$venv/setup.log
: >"$log"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Print how far an installation is.
installed() {
  local now compiled
  now=$(megabytes)
  compiled=$(grep -o '\[[0-9]*/[0-9]*\]' "$log" | tail -n 1) || true
  echo "$((now - before)) MB on the disk${compiled:+, compiled $compiled} after $((SECONDS - since)) s"
}
megabytes() {
  { du -scm "$venv" "$scratch" 2>/dev/null || true; } | tail -n 1 | cut -f 1
}
# Call pip, show how far it is, and say why it failed.
pip() {
  local before since=$SECONDS
  before=$(megabytes)
  EVERY=30 TMPDIR=$scratch watch installed "$py" -m pip "$@" && return
  explain_failure
  die "pip failed: the log is $log"
}
has() { "$py" -m pip show -qq "$1" 2>/dev/null; }

# --- 2. torch ----------------------------------------------------------------
if "$py" -c 'import torch' 2>/dev/null; then
  say "2/3 keeping torch $("$py" -c 'import torch; print(torch.__version__)')"
else
  say "2/3 installing torch $(pinned torch) (up to 7 GB when unpacked)"
  if ! nvidia-smi -L >/dev/null 2>&1 && [ "$(uname -sm)" = 'Linux x86_64' ]; then
    cat <<EOF
  There is no GPU here, and this torch brings about 4 GB of CUDA libraries. For
  the small CPU build, press Ctrl-C and install torch $(pinned torch), torchvision $(pinned torchvision)
  from the CPU index of pytorch.org with $venv/bin/pip
  (https://pytorch.org/get-started: Pip, CPU). The next call keeps that torch.
EOF
  fi
  pip install -q "torch==$(pinned torch)" "torchvision==$(pinned torchvision)" \
    "numpy==$(pinned numpy)"
  "$py" -c 'import torch' || die "torch $(pinned torch) does not run here"
fi
# From here on, pip must not replace torch or choose untested versions.
constraints=$scratch/constraints.txt
{
  grep -v '^torch' "$tested"
  # torch.__version__ may have a suffix that the installed package lacks.
  for name in torch torchvision; do
    "$py" -c "from importlib.metadata import version; print('$name==' + version('$name'))" 2>/dev/null || true
  done
} >"$constraints"

# --- 3. the task libraries and mmhatnet --------------------------------------
say '3/3 installing the mm packages and mmhatnet (minutes)'
mm=$root/requirements/mminstall${suffix/-/_}.txt
# mmcv-lite and another mmcv are one folder.
if [ $stack = openmmlab ] && has mmcv; then
  sed '/^mmcv-lite/d' "$mm" >"$scratch/mm.txt"
  mm=$scratch/mm.txt
elif [ $stack = onedl ] && has mmcv-lite; then
  pip uninstall -q -y mmcv-lite onedl-mmcv
fi
more=()
[ $tests = 0 ] || more=(-r "$root/requirements/tests.txt")
[ $tests$stack != 1onedl ] || more+=(-r "$root/requirements/tests_onedl.txt")
pip install -q -c "$constraints" -r "$mm" -r "$root/requirements/optional.txt" \
  "${more[@]+"${more[@]}"}" -e "$root"
if [ $compiled = 1 ] && ! mmcv_works; then
  say "adding mmcv's compiled operators (10 minutes on 2 cores if there is no wheel)"
  pip install -q -r "$root/requirements/build.txt"
  # Not from pip's cache, which has the package without them. -O1 without debug
  # symbols takes a third of the time of the default flags.
  PATH=$venv/bin:$PATH MMCV_WITH_OPS=1 CFLAGS='-g0 -O1' pip wheel -v --no-deps \
    --no-cache-dir --no-build-isolation -w "$scratch" "$mmcv==$(pinned $mmcv)"
  if has mmcv-lite; then pip uninstall -q -y mmcv-lite; fi
  pip install -q --no-deps --force-reinstall "$scratch"/*.whl
  mmcv_works || die "mmcv's operators were not compiled: the log is $log"
fi
"$py" - <<'EOF'
from importlib import import_module
names = 'torch', 'mmengine', 'mmhatnet', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'
import_module('mmhatnet')  # before mmdet looks for operators
import_module('mmcv.ops')
print('  ' + ', '.join(f'{name} {import_module(name).__version__}' for name in names))
EOF
[ $tests = 0 ] || stamp=$stamp-tests
made_from | cksum >"$stamp"
say "done: source $venv/bin/activate"
