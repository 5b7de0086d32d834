#!/usr/bin/env bash
# From a bare machine to a trained segmentor and its pictures: see --help.
set -euo pipefail

case ${1:-} in
  '' | --cfg-options) ;;
  *)
    cat <<'USAGE'
Usage: tools/quickstart.sh [--cfg-options KEY=VALUE ...]

Sets up an environment (tools/setup_env.sh; its variables apply), draws
predictions of a small segmentor whose weights are in the package, trains the
Semantic FPN demo from scratch, on all GPUs or in two processes on the CPU,
evaluates it and draws its predictions beside the truth. Then a small detector is
trained for few iterations, and its boxes are drawn. A second call continues where the
first was interrupted. What the libraries print is in
work_dirs/fpn_hatnet-tiny_2xb4-400_demo/quickstart.log.

  --cfg-options  settings of the segmentor's config to override, as for
                 tools/train.py; those of train_cfg are for the detector, too:
                 train_cfg.max_iters=20 only shows that everything runs
USAGE
    case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac ;;
esac
options=("$@") short=()
for option in "$@"; do
  case $option in train_cfg.*) short+=("$option") ;; esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/watch.sh
tools/setup_env.sh
venv=$(tools/setup_env.sh --path)
export PYTHON=$venv/bin/python
config=configs/demo/fpn_hatnet-tiny_2xb4-400_demo.py
images=data/demo/ade/ADEChallengeData2016/images/validation
work=work_dirs/fpn_hatnet-tiny_2xb4-400_demo # as tools/train.py has it
detector=retinanet_hatnet-micro_fpn_1xb8-100_demo
log=$work/quickstart.log
mkdir -p $work
: >$log

say() { printf '[quickstart %4ds] %s\n' "$SECONDS" "$*"; }
progress() { # of the training or the test
  tail -n 99 $log | sed -n \
    -e 's|.*Iter(train) *\[ *\([0-9]*\)/\([0-9]*\)\].* eta: \([^ ]*\) .* loss: \([0-9.]*\).*|iteration \1 of \2, loss \4, \3 left|p' \
    -e 's|.*Iter(test) *\[ *\([0-9]*/[0-9]*\)\] *eta: \([^ ]*\) .*|image \1, \2 left|p' \
    | tail -n 1
}
run() {
  watch "$@" && return
  local code=$?
  explain_failure
  echo "quickstart.sh: error: ${*:2:2} ended with exit status $code; the log is $log" >&2
  exit 1
}
# With the options that change the model.
use() { run "$@" "${options[@]+"${options[@]}"}"; }

if [ ! -e data/demo/demo_data.json ]; then
  say '1/5 making the demo data in data/demo (seconds)'
  run : "$PYTHON" tools/dataset_converters/make_demo_data.py
fi

say '2/5 drawing what a small segmentor of the package predicts (seconds)'
run : "$PYTHON" tools/visualization/vis_predictions.py shape-segmentor \
  --out $work/shape-segmentor.png
echo "  image, prediction and truth: $work/shape-segmentor.png"

n=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count() or 2)')
say "3/5 training $config in $n processes"
use progress tools/dist_train.sh $config "$n" --work-dir $work --resume

say '4/5 evaluating, and drawing predictions'
checkpoint=$work/$(basename "$(cat $work/last_checkpoint)")
rm -rf $work/test $work/pictures # its results, of an earlier call
use progress "$PYTHON" tools/test.py $config "$checkpoint" --work-dir $work/test \
  --show-dir $work/pictures
use : "$PYTHON" tools/visualization/vis_predictions.py $config "$checkpoint" \
  --out $work/predictions.png

say "5/5 training configs/demo/$detector.py, and drawing its boxes"
run progress "$PYTHON" tools/train.py configs/demo/$detector.py --resume \
  ${short[@]+--cfg-options "${short[@]}"}
boxes=work_dirs/$detector
rm -rf $boxes/test $boxes/pictures
run progress "$PYTHON" tools/test.py configs/demo/$detector.py \
  "$boxes/$(basename "$(cat $boxes/last_checkpoint)")" --work-dir $boxes/test \
  --show-dir $boxes/pictures
"$PYTHON" - $work $boxes <<'SUMMARY'
import json, sys
from pathlib import Path

results = (next(Path(work, 'test').glob('*/*.json')) for work in sys.argv[1:])
miou, ap = (
    json.loads(result.read_text()).get(key, 0)  # none without any boxes
    for result, key in zip(results, ('mIoU', 'coco/bbox_mAP_50'))
)
data = json.loads(Path('data/demo/demo_data.json').read_text())
print(f"""
mIoU on parts of photographs that training never saw: {miou:.1f} %
mIoU of a model that answers 'background' everywhere: {100 * data['val']['background'] / 7:.1f} %
(mIoU: of the pixels that are of a class or that the model takes for it, the share
that are both, as the mean of 7 classes; 100 % is perfect)
AP50 of the detector: {100 * ap:.1f} %""")
SUMMARY
cat <<RESULT

Image, prediction and truth:   $work/predictions.png
All images, truth on the left: $work/pictures/vis_data/vis_image
Boxes, truth on the left:      $boxes/pictures
What the libraries printed:    $log

Go on, after 'source $venv/bin/activate': predict, look at the attention, or test
with other G1 and G2, without training:
  python tools/infer.py $config $checkpoint '$images/*1.jpg' --overwrite
  python tools/visualization/vis_attention.py $config $images/ADE_val_00000001.jpg --checkpoint $checkpoint
  python tools/test.py $config $checkpoint --cfg-options model.backbone.grid_sizes=4,4,4 model.backbone.ds_ratios=16,8,4
RESULT
