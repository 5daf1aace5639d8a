#!/usr/bin/env bash
# shellcheck disable=SC2086
# Captions and classes of hands that draw in the air, on two CPU cores; README.md has the numbers.
#   bash examples/gestures/train.sh CLIPS [STAGE]...    all of motions prepare classes captions measure
#
# CLIPS is a folder of videos with clips.jsonl (id, video, label, caption, split). Variables:
#   TRAIN    splits of it to train on, with commas                                     (train)
#   TEST     another split of it, or another folder like it, to be measured on         (valid)
#   SEED     of weights, augmentation and order                                        (1)
#   OUT      where everything goes; what is there is gone on from      (runs/gestures/TRAIN-SEED)
#   MOTIONS  checkpoint of the video network that MiniWorld's motions were taught; it is made where
#            it does not exist                                 (runs/gestures/motions/checkpoint_last.pt)
#   SMALL    options after all others of every training, for tests
set -euo pipefail
CLIPS=$(realpath "${1:?expected the folder of the clips}")
OUT=${OUT:+$(realpath -m "$OUT")} MOTIONS=${MOTIONS:+$(realpath -m "$MOTIONS")}
[ ! -e "${TEST:-}/clips.jsonl" ] || TEST=$(realpath "$TEST")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
shift
TRAIN=${TRAIN:-train} TEST=${TEST:-valid} SEED=${SEED:-1} SMALL=${SMALL:-}
OUT=${OUT:-runs/gestures/$TRAIN-$SEED}
MOTIONS=${MOTIONS:-runs/gestures/motions/checkpoint_last.pt}
DATA=$OUT/data
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} # where other work shares the cores, 1 is faster

COMMON="--user-dir user_dir --task video_translate --arch video_translate_tiny --no-context --no-flip
  --max-target-tokens caption=40,classify=20
  --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0 --lr-scheduler polynomial_decay
  --num-workers 0 --cpu --no-epoch-checkpoints --save-interval-updates 200 --keep-interval-updates 1
  --validate-interval 100000 --log-format simple --log-interval 20"
HEADS="--criterion video_translate_classification --heads-on video --head-lr-scale 1"
# Another batch has other rooms, light, sleeves and distances; what stays is the way of the hand.
# Nothing is cut off, as the hand leaves the frame's sides in some clips.
CLIP="--num-frames 16 --frame-size 48 --max-seconds 0 --whole-frame --cache-clips 1
  --crop-scales 1 --rotate 6 --stretch 0.45 --shift 0.18 --time-jitter 0.12
  --color-jitter 0.35 --gray-clips 0.2 --still-mix 0.45 --weight-decay 0.02"

# updates N: as many, with a rate that falls to 0.
updates() { echo "--max-update $1 --total-num-update $1"; }

# 1. What moves where, learned on drawn shapes (as the paper's network on IG65M).
motions() {
  [ ! -e "$MOTIONS" ] || return 0
  local folder
  folder=$(dirname "$MOTIONS")
  # One vocabulary, whatever is trained on: that of all captions. The heads write nothing.
  vt-prepare jsonl --annotations "$CLIPS/clips.jsonl" --videos "$CLIPS" --out "$folder/words" \
    --train-vocabulary 300
  vt-prepare miniworld --out "$folder/data" --vocabulary "$folder/words/spiece.model" \
    ${SMALL:+--size tiny}
  # Frames this small are faster on one thread.
  OMP_NUM_THREADS=1 fairseq-train "$folder/data" $COMMON $HEADS --heads verb,noun \
    --num-frames 8 --frame-size 32 --crop-scales 1,0.9 --cache-clips 0.5 --lr 3e-3 --batch-size 16 \
    --warmup-updates 20 $(updates 800) --seed 1 --save-dir "$folder" $SMALL 2>&1 | tee "$folder/train.log"
}

prepare() {
  [ ! -e "$DATA/data.json" ] || return 0
  vt-prepare jsonl --annotations "$OUT/clips.jsonl" --videos "$(cat "$OUT/root")" --out "$DATA" \
    --vocabulary "$(dirname "$MOTIONS")/data/spiece.model"
}

# 2. The video network alone learns the classes.
classes() {
  fairseq-train "$DATA" $COMMON $HEADS --heads label $CLIP --finetune-from-model "$MOTIONS" \
    --lr 3e-3 --batch-size 20 --warmup-updates 20 $(updates 500) --seed "$SEED" \
    --save-dir "$OUT/classes" $SMALL 2>&1 | tee "$OUT/classes.log"
}

# 3. Everything learns to write captions and classes, of one token per clip: the mean, which the classes
# were learned from. With a token for every two frames it knew fewer clips of another batch.
captions() {
  fairseq-train "$DATA" $COMMON $CLIP --finetune-from-model "$OUT/classes/checkpoint_last.pt" \
    --criterion video_translate --actions caption,classify --text-dropout 0.8 --video-pooling temporal \
    --lr 2e-3 --video-lr-scale 0.2 --batch-size 20 --warmup-updates 20 $(updates 250) --seed "$SEED" \
    --save-dir "$OUT/captions" $SMALL 2>&1 | tee "$OUT/captions.log"
}

# What it makes of the clips of TEST. Greedy: fairseq ends a search when as many texts have ended as there
# are beams, and this model is so sure of each piece that all but its best text end early, in the midst
# of a word, before the best one does.
made() {
  local results=$OUT/results$1 path="$OUT/captions/checkpoint_last.pt"
  fairseq-generate "$DATA" --user-dir user_dir --task video_translate --path "$path" \
    --gen-subset valid --action caption --beam 1 --max-len-b 40 --batch-size 32 --cpu \
    --results-path "$results/captions" $1
  vt-evaluate captions --predictions "$results/captions/predictions.jsonl" --coco off \
    --references "$results/captions/references.jsonl" --out "$results/captions/metrics.json"
  vt-score classify "$DATA" --path "$path" --split valid --batch-size 32 --cpu \
    --out "$results/classes" $1
  vt-score classify "$DATA" --path "$OUT/classes/checkpoint_last.pt" --split valid --cpu \
    --batch-size 32 --out "$results/video-network" $1
}

# At the same time, and on the other core: what it makes of uniform gray in the clips' place.
measure() {
  local blank=$OUT/blank.log
  export OMP_NUM_THREADS=1
  made --blank-video >"$blank" 2>&1 &
  made ""
  wait "$!" || { cat "$blank" >&2 && return 1; }
  echo "== gestures: measure: on blank video"
  cat "$blank"
}

began=$(date +%s)
[ $# -gt 0 ] || set -- motions prepare classes captions measure
for stage in "$@"; do
  case $stage in
    motions | prepare | classes | captions | measure) ;;
    *) echo "error: no stage $stage: expected motions, prepare, classes, captions or measure" >&2 && exit 2 ;;
  esac
done
# First of all: a mistake in TRAIN or TEST, or another choice than OUT was made of, ends here.
[ "$*" = motions ] ||
  python examples/gestures/splits.py "$CLIPS" --train "$TRAIN" --test "$TEST" --out "$OUT"
for stage in "$@"; do
  echo "== gestures: $stage"
  "$stage"
  echo "== gestures: $stage: ended $(($(date +%s) - began)) s after the start"
done
