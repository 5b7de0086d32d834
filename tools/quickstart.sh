#!/usr/bin/env bash
# From a bare machine to a trained segmentor and its pictures: see --help.
set -euo pipefail

if [ $# -gt 0 ]; then
  cat <<'USAGE'
Usage: tools/quickstart.sh

Sets up an environment (tools/setup_env.sh --lite; its variables apply), predicts
for photographs with the small models whose weights are in the package, trains
the Semantic FPN demo from scratch, on all GPUs or in two processes on the CPU,
evaluates it and draws its predictions beside the ground truth. A second call
continues where the first was interrupted.
USAGE
  case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup_env.sh --lite
venv=$(tools/setup_env.sh --path)
export PYTHON=$venv/bin/python
config=configs/demo/fpn_hatnet-tiny_2xb4-400_demo.py
work=work_dirs/quickstart
started=$SECONDS
say() { printf '\n[quickstart %4ds] %s\n' "$((SECONDS - started))" "$*"; }

if [ ! -e data/demo/demo_data.json ]; then
  say '1/4 making the demo data in data/demo (seconds)'
  "$PYTHON" tools/dataset_converters/make_demo_data.py
fi

say '2/4 predicting for photographs with weights of the package (seconds)'
photos=$("$PYTHON" -c 'import skimage, os; print(os.path.dirname(skimage.__file__))')/data
"$PYTHON" tools/infer.py cifar10-classifier "$photos/chelsea.png" \
  "$photos/horse.png" --out-dir $work/first --overwrite
"$PYTHON" tools/infer.py shape-segmentor \
  data/demo/ade/ADEChallengeData2016/images/validation/*1.jpg \
  --out-dir $work/first --overwrite
echo "See the pictures in $work/first; small models are often wrong"

n=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count() or 2)')
say "3/4 training $config in $n processes (6 minutes on two cores; the log has an ETA)"
tools/dist_train.sh "$config" "$n" --work-dir $work --resume

say '4/4 evaluating, and drawing predictions'
"$PYTHON" tools/test.py "$config" "$(cat $work/last_checkpoint)" \
  --work-dir $work --show-dir $work/pictures
"$PYTHON" - $work <<'SUMMARY'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
results = [json.loads(p.read_text()) for p in sorted(work.glob('*/*.json'))]
background = json.loads(Path('data/demo/demo_data.json').read_text())['val']['background']
print(f"""
mIoU on parts of photographs that training never saw: {results[-1]['mIoU']:.1f} %
mIoU of a model that answers 'background' everywhere:  {100 * background / 7:.1f} %
Predictions beside the ground truth: {work}/pictures""")
SUMMARY
