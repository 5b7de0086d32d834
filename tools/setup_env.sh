#!/usr/bin/env bash
# Make an environment for mmhatnet on a bare machine: see --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: tools/setup_env.sh [--stack onedl|openmmlab] [--python 3.12] [--lite]
                          [--isolated] [--path]

Creates a virtual environment with torch, mmcv, mmengine, mmsegmentation,
mmdetection, mmpretrain and this checkout of mmhatnet (editable). If the
environment exists, missing packages are added. Running it again is quick and
changes nothing.

  --stack onedl      the maintained OneDL packages (default), in .venv
  --stack openmmlab  the original OpenMMLab packages, in .venv-openmmlab
                     (Python 3.10 or 3.11)
  --python 3.12      make the environment with this installed Python, a version
                     or a command, instead of PYTHON
  --lite             leave out mmcv's compiled operators, which only detectors
                     need: no compiler, and saves minutes if there is no
                     wheel; a later call without --lite adds them (onedl only)
  --isolated         install the tested torch even if PYTHON already has a
                     torch; openmmlab always does this, because it does not work
                     with a recent torch
  --path             print the folder of the environment, and do nothing else

Environment variables, with [defaults]:
  PYTHON          the Python (>= 3.10) that makes the environment [python3; for
                  openmmlab the first of python3, python3.11 and python3.10 that
                  is old enough]
  MMHATNET_VENV   the folder of the environment; it may already exist
  PIP_FIND_LINKS  folders where pip looks for wheels first
  FORCE_CUDA      1: CUDA operators, though no GPU is there
  MMCV_BASE_URL   where mim looks for mmcv with CUDA operators [mm's own address]
  XDG_CACHE_HOME  mmcv wheels built here are kept in $XDG_CACHE_HOME/mmhatnet
                  [~/.cache/mmhatnet]

A torch that is already in MMHATNET_VENV or in PYTHON is never replaced.
EOF
}

say() { printf '[setup %4ds] %s\n' "$SECONDS" "$*"; }
die() { printf 'setup_env.sh: %s\n' "$*" >&2; exit 1; }

stack=onedl isolated=0 lite=0 path_only=0 wanted=''
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
    --lite) lite=1 ;;
    --path) path_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
  shift
done
case $stack in
  onedl) suffix='' mmcv=onedl-mmcv mim=onedl-mim cuda_of_torch=12.8 ;;
  openmmlab) suffix=-openmmlab mmcv=mmcv mim=openmim cuda_of_torch=12.1 isolated=1 ;;
  *) die "--stack is 'onedl' or 'openmmlab', not '$stack'" ;;
esac

[ $lite = 0 ] || [ "$stack" = onedl ] || die '--lite is for --stack onedl'

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
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mmhatnet
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ -n "$wanted" ] && [ -x "$py" ]; then
  version='import sys; print("Python %d.%d" % sys.version_info[:2])'
  has=$("$py" -c "$version")
  [ "$has" = "$("$wanted" -c "$version" 2>/dev/null)" ] \
    || die "$venv has $has, not $wanted: remove it, or set MMHATNET_VENV to another folder"
fi

gpu=0
if [ "${FORCE_CUDA:-}" = 1 ]; then # mmcv reads it, too
  gpu=1
elif nvidia-smi -L >/dev/null 2>&1; then
  case ${CUDA_VISIBLE_DEVICES-all} in '' | -1) ;; *) gpu=1 ;; esac
fi

# Print everything that the environment depends on. If nothing changed since the
# last run, there is nothing to do.
made_from() {
  cat "$root"/requirements/*.txt "$root/setup.py" "$root/mmhatnet/version.py" "${BASH_SOURCE[0]}"
  echo "$root" "$stack" "$gpu"
  "$py" -c 'import sys; print(sys.version)'
}
stamp=$venv/.mmhatnet-$stack
is_current() { [ -f "$1" ] && [ "$(made_from | cksum)" = "$(cat "$1")" ]; }
if [ -x "$py" ] && [ -e "$root/mmhatnet/.mim/configs" ] \
    && { is_current "$stamp" || { [ $lite = 1 ] && is_current "$stamp-lite"; }; }; then
  echo "The environment in $venv is up to date."
  exit 0
fi

# --- 0. what would fail later ------------------------------------------------
if [ ! -x "$py" ]; then
  command -v "$base_python" >/dev/null \
    || die "no '$base_python': install Python >= 3.10 or set PYTHON to one"
  "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || die "$("$base_python" --version) is too old: set PYTHON to a Python >= 3.10"
  if [ $stack = openmmlab ]; then
    "$base_python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' \
      || die "torch $(pinned torch) needs Python 3.10 or 3.11, not $("$base_python" --version): install one, or set PYTHON to it"
  fi
fi

# mmcv's operators, on the device that is there. An image for GPUs may be made
# where there is none.
mmcv_works() {
  "${1:-$py}" - 2>/dev/null <<'EOF'
import os
import torch
from mmcv.ops import get_compiling_cuda_version, nms
device = 'cuda' if torch.cuda.is_available() else 'cpu'
box = torch.tensor([[0., 0., 1., 1.]], device=device)
assert len(nms(box, torch.ones(1, device=device), 0.5)[1]) == 1
assert os.getenv('FORCE_CUDA') != '1' or get_compiling_cuda_version() != 'not available'
EOF
}
nvcc_release() {
  PATH="${CUDA_HOME:+$CUDA_HOME/bin:}$PATH:/usr/local/cuda/bin" nvcc --version 2>/dev/null \
    | sed -n 's/.*release \([0-9.]*\).*/\1/p' || true
}
# Print the Pythons ("3.10 3.12") for which mmcv is prebuilt at a URL.
prebuilt_pythons() {
  "$there" - "$1" "${mmcv/-/_}-$(pinned $mmcv)" 2>/dev/null <<'EOF'
import platform, re, sys, urllib.error, urllib.request
url, name = sys.argv[1:]
try:
    page = urllib.request.urlopen(url, timeout=30).read().decode()
except urllib.error.HTTPError as error:
    sys.exit(error.code != 404)
found = re.findall(rf'{name}[^-]*-cp(\d)(\d+)-\S*linux\S*{platform.machine()}', page)
print(*('%d.%d' % pair for pair in sorted({(int(a), int(b)) for a, b in found})))
EOF
}
# Arguments: the Python, its torch (or the one to install), the CUDA of it.
find_cuda_operators() {
  local python=$1 torch=$2 cuda=$3 base=${2%.*}.0 index url pythons nvcc
  if [ $stack = onedl ]; then
    index=${MMCV_BASE_URL:-https://mmwheels.onedl.ai}
    url=$index/cu${cuda/./}-torch${base//./}/simple/onedl-mmcv/index.html
  else
    index=${MMCV_BASE_URL:-https://download.openmmlab.com}
    url=$index/mmcv/dist/cu${cuda/./}/torch$base/index.html
  fi
  say "0/5 looking for mmcv's CUDA operators: Python $python, torch $torch, CUDA $cuda"
  if pythons=$(prebuilt_pythons "$url"); then
    case " $pythons " in *" $python "*) echo '  they are prebuilt'; return 0 ;; esac
    echo "  they are not prebuilt${pythons:+, only for Python ${pythons// /, }} ($url)"
  else
    echo "  $url cannot be reached"
  fi
  nvcc=$(nvcc_release)
  if [ "${nvcc%%.*}" = "${cuda%%.*}" ]; then
    echo "  nvcc $nvcc can build them"
  elif compgen -G "$cache/$mmcv-*-torch$torch*-cp${python/./}/*.whl" >/dev/null \
      || "$there" -m pip config list | grep -E "(find-links|index-url)='.+'" >/dev/null; then
    echo '  there is no nvcc to build them; the cache or an index of pip may have them'
  else
    die "mmcv's CUDA operators can be neither downloaded nor built (nvcc: ${nvcc:-absent}): ${pythons:+use --python ${pythons##* }, }install the CUDA $cuda toolkit, install a torch for which $index has them in MMHATNET_VENV$([ $stack = openmmlab ] || echo ", or use --lite if you need no detectors")"
  fi
}
if [ $lite = 0 ] && [ $gpu = 1 ]; then
  there=$base_python keep=0
  if [ -x "$py" ]; then
    there=$py keep=1
  elif [ $isolated = 0 ] && "$there" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
    keep=1 # step 1 uses the torch of a Python that is not in an environment
  fi
  read -r python torch cuda < <("$there" - $keep "$(pinned torch)" $cuda_of_torch <<'EOF'
import sys
keep, *found = sys.argv[1:]
if keep == '1':
    try:
        import torch
        found = torch.__version__.split('+')[0], torch.version.cuda
    except ImportError:
        pass
print('%d.%d' % sys.version_info[:2], *found)
EOF
  ) || true
  if [ "${cuda:-None}" = None ]; then # the user chose a torch without CUDA
    [ "${FORCE_CUDA:-}" != 1 ] || die "FORCE_CUDA=1 needs a torch with CUDA, which $there lacks"
  elif [ $keep = 0 ] || ! mmcv_works "$there"; then
    find_cuda_operators "$python" "$torch" "$cuda"
  fi
fi

# --- 1. the environment ------------------------------------------------------
if [ ! -x "$py" ]; then
  site=()
  if [ $isolated = 0 ] && "$base_python" -c 'import torch' 2>/dev/null; then
    if "$base_python" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
      site=(--system-site-packages)
    else
      echo "Note: $base_python belongs to a virtual environment that has torch;" \
        "MMHATNET_VENV=$("$base_python" -c 'import sys; print(sys.prefix)') would install there and keep that torch."
    fi
  fi
  say "1/5 making the environment $venv (seconds)"
  "$base_python" -m venv "${site[@]+"${site[@]}"}" "$venv"
fi
# Environments made by uv have no pip, and neither have incomplete ones.
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip >/dev/null \
  || die "there is no pip in $venv, and ensurepip could not install it"

log=$venv/setup.log
: >"$log"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Print how far an installation is.
installed() {
  local now
  now=$(megabytes)
  echo "$((now - before)) MB on the disk after $((SECONDS - since)) s"
}
megabytes() {
  { du -scm "$venv" "$scratch" 2>/dev/null || true; } | tail -n 1 | cut -f 1
}
# Install with pip, show how far it is, and say why it failed.
install() {
  local before since=$SECONDS
  before=$(megabytes)
  EVERY=30 TMPDIR=$scratch watch installed "$py" -m pip install -q "$@" && return
  explain_failure
  die "pip failed: the log is $log"
}

# --- 2. torch ----------------------------------------------------------------
if "$py" -c 'import torch' 2>/dev/null; then
  say "2/5 keeping torch $("$py" -c 'import torch; print(torch.__version__)')"
else
  say "2/5 installing torch $(pinned torch) (up to 7 GB when unpacked)"
  if [ $gpu = 0 ] && [ "$(uname -sm)" = 'Linux x86_64' ]; then
    cat <<EOF
  There is no GPU here, and this torch brings about 4 GB of CUDA libraries. For
  the small CPU build, press Ctrl-C and install torch $(pinned torch), torchvision $(pinned torchvision)
  from the CPU index of pytorch.org with $venv/bin/pip
  (https://pytorch.org/get-started: Pip, CPU). The next call keeps that torch.
EOF
  fi
  install "torch==$(pinned torch)" "torchvision==$(pinned torchvision)" \
    "numpy==$(pinned numpy)"
  "$py" -c 'import torch' || die "torch $(pinned torch) does not run here"
fi
torch=$("$py" -c 'import torch; print(torch.__version__)')
cuda=$("$py" -c 'import os, torch; print((torch.version.cuda or "") if os.getenv("FORCE_CUDA") == "1" or torch.cuda.is_available() else "")')
# From here on, pip must not replace torch or choose untested versions.
constraints=$scratch/constraints.txt
{
  grep -v '^torch' "$tested"
  # torch.__version__ may have a suffix that the installed package lacks.
  "$py" -c 'from importlib.metadata import version; print("torch==" + version("torch"))'
} >"$constraints"
pip_install() { "$py" -m pip install -qq -c "$constraints" "$@"; }
"$py" -c 'import torchvision' 2>/dev/null || pip_install torchvision

# --- 3. mmcv: keep it, else install a wheel, else build it -------------------
mmcv_version=$(pinned $mmcv)
# The name of a wheel does not contain its torch version, so check that it runs.
try_wheel() {
  echo "  looking for a wheel: $1"
  shift
  "$@" >/dev/null 2>&1 || return 1
  mmcv_works && return 0
  echo '  found a wheel, but it does not work with this torch'
  "$py" -m pip uninstall -qq -y $mmcv
  return 1
}
build_mmcv() {
  local log=$wheels/build.log nvcc
  if [ -n "$cuda" ]; then
    nvcc=$(nvcc_release)
    [ "${nvcc%%.*}" = "${cuda%%.*}" ] \
      || die "no prebuilt mmcv for torch $torch: to build it, install the CUDA $cuda toolkit (nvcc: ${nvcc:-absent})"
  fi
  mkdir -p "$wheels"
  # In a folder that stays, so that a second call continues an interrupted one.
  if [ ! -d "$wheels/src" ]; then
    "$py" -m pip download -qq --no-deps --no-build-isolation --no-binary "$mmcv" \
      -d "$wheels" "$mmcv==$mmcv_version" || die "the source of mmcv could not be downloaded"
    mkdir -p "$wheels/src.part"
    tar xzf "$wheels"/*.tar.gz -C "$wheels/src.part" --strip-components 1
    mv "$wheels/src.part" "$wheels/src"
  fi
  echo "  building from source, which takes minutes, longer for CUDA; the log is $log"
  # -O1 without debug symbols takes a third of the time of the default flags.
  if ! PATH="$venv/bin:$PATH" MMCV_WITH_OPS=1 CFLAGS="-g0 -O1" \
      "$py" -m pip wheel -v --no-deps --no-build-isolation -w "$wheels/new" \
        "$wheels/src" 2>&1 | tee "$log" \
        | awk 'match($0, /\[[0-9]+\/[0-9]+\]/) && ++n % 10 == 0 {
                 print "    compiled " substr($0, RSTART, RLENGTH); fflush() }'
  then
    tail -n 20 "$log" >&2
    die "mmcv could not be built (see $log): it needs a C++17 compiler, and torch $(pinned torch) is known to work (--isolated installs it in a new environment)"
  fi
  mv "$wheels"/new/*.whl "$wheels"
  rm -rf "$wheels/src" "$wheels"/*.tar.gz
}

pip_install -r "$root/requirements/build.txt"
tag=$("$py" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
wheels=$cache/$mmcv-$mmcv_version-torch$torch-$tag
only_wheel=(--only-binary "$mmcv" "$mmcv==$mmcv_version")
# Most of the next steps install mmcv without its requirements.
install_imports_of_mmcv() {
  pip_install "$(grep -o '[a-z-]*mmengine==.*' "$tested")" "numpy==$(pinned numpy)" \
    "opencv-python==$(pinned opencv-python)"
}
if [ $lite = 1 ] && ! mmcv_works; then
  version=$(sed -n "s/^LITE = ('mmcv-lite', '\([0-9.]*\)'.*/\1/p" "$root/mmhatnet/stack.py")
  say "3/5 installing mmcv-lite $version (seconds)"
  install_imports_of_mmcv
  pip_install --no-deps "mmcv-lite==$version" # it requires another mmengine
elif mmcv_works; then
  say "3/5 keeping mmcv $("$py" -c 'import mmcv; print(mmcv.__version__)')"
else
  say "3/5 installing mmcv $mmcv_version"
  from_cache() { pip_install --no-deps "$wheels"/*.whl; }
  # Install mim in a separate folder, because its requirements would replace
  # packages of the environment.
  from_mim() {
    "$py" -m pip install -qq --target "$scratch/mim" $mim \
      && PYTHONPATH="$scratch/mim" "$py" -m mim install -qq --no-deps "${only_wheel[@]}"
  }
  # It has the same folder.
  rm -f "$stamp-lite"
  "$py" -m pip uninstall -qq -y mmcv-lite 2>/dev/null
  install_imports_of_mmcv
  { [ -n "$cuda" ] && try_wheel "prebuilt for CUDA $cuda, by mim" from_mim; } \
    || try_wheel "built here before ($wheels)" from_cache \
    || try_wheel 'PIP_FIND_LINKS and the package index' pip_install "${only_wheel[@]}" \
    || { build_mmcv; from_cache; } \
    || die 'mmcv could not be installed'
fi

# --- 4. the task libraries ---------------------------------------------------
say '4/5 installing mmengine, mmsegmentation, mmdetection, mmpretrain (1 minute)'
requirements=$root/requirements/mminstall$([ $stack = onedl ] || echo _$stack).txt
if mmcv_works; then
  cp "$requirements" "$scratch/mm.txt"
else
  grep -v "^$mmcv" "$requirements" >"$scratch/mm.txt"
fi
install -c "$constraints" -r "$scratch/mm.txt"

# --- 5. mmhatnet -------------------------------------------------------------
say '5/5 installing mmhatnet (editable) and the requirements of its tests (seconds)'
more=(-r "$root/requirements/tests.txt")
[ $lite = 1 ] || [ $stack = openmmlab ] || more+=(-r "$root/requirements/tests_onedl.txt")
install -c "$constraints" --no-build-isolation -e "$root" "${more[@]}"
"$py" - <<'EOF'
from importlib import import_module
names = 'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'mmhatnet'
print('  ' + ', '.join(f'{name} {import_module(name).__version__}' for name in names))
EOF
if [ $lite = 1 ] && ! mmcv_works; then
  made_from | cksum >"$stamp-lite"
  say "done, without mmcv's operators: tools/setup_env.sh adds them; source $venv/bin/activate"
  exit 0
fi
mmcv_works || die "mmcv's compiled operators do not run; delete $venv and try again"
made_from | cksum >"$stamp"
say "done: source $venv/bin/activate"
