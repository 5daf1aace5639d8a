# shellcheck shell=bash disable=SC2034,SC2086
# Sourced by every recipe's run.sh, which sets RECIPE (its folder) and CORPUS first. It provides OUT,
# DATA, the options below and `stages`. Variables that users set:
#
#   ANNOTATIONS  folder of the corpus's annotation files
#   VIDEOS       folder of its videos, or of its folders of frames
#   VOCABULARY   T5's spiece.model
#   PRETRAINED   checkpoint that fine-tuning starts from: the recipe pretrain_howto100m makes it
#   RUNS         where the results go, one folder per recipe    (runs)
#   TRAINER      optimizer and precision (--optimizer deepspeed_adam --zero-stage 1 --fp16; a smoke
#                run has no GPU and no --fp16)
#   NOISE=paper  the text noise of the paper, see TEXT below (ours)
#   EXTRA        more options of fairseq-train; they come last, so they count
#   LAUNCHER     starts one process per GPU, for instance "torchrun --nproc-per-node 8 --no-python";
#                without one fairseq-train takes all GPUs of the machine and vt-score the first
#   SMOKE=1      the same commands, tiny, on a CPU, on MiniWorld laid out as CORPUS: do they run?
#                The options that make them small come last. The numbers mean nothing.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUNS=${RUNS:-runs${SMOKE:+/smoke}}
OUT=$RUNS/$RECIPE
DATA=$OUT/data

# Makes a MiniWorld in the files of CORPUS and, for fine-tuning, a checkpoint to start from.
smoke() {
  local pretraining=$RUNS/pretrain_howto100m
  if [ "$CORPUS" = howto100m ]; then
    [ -n "${VOCABULARY:-}" ] || TOKENIZER="--train-vocabulary=300"
  elif [ -z "${PRETRAINED:-}" ]; then
    PRETRAINED=$pretraining/checkpoints/checkpoint_last.pt
    VOCABULARY=$pretraining/data/spiece.model
    [ -e "$PRETRAINED" ] || RUNS=$RUNS bash examples/pretrain_howto100m/run.sh
  fi
  [ -d "$OUT/world/annotations" ] ||
    vt-prepare miniworld --as "$CORPUS" --size tiny --num-workers 1 --out "$OUT/world"
  ANNOTATIONS=$OUT/world/annotations
  VIDEOS=$OUT/world/videos
  [ ! -d "$OUT/world/frames" ] || VIDEOS=$OUT/world/frames
  FP16="" # needs a GPU
  EXTRA="--arch video_translate_tiny --num-frames 8 --frame-size 32 --batch-size 4 --cpu
    --max-update 3 --warmup-updates 1 --log-interval 1 --num-workers 0 ${EXTRA:-}"
  SMALL_INIT="--arch video_translate_tiny"
  SMALL_INFER="--batch-size 8 --num-workers 0 --cpu"
  SMALL_EVALUATE="--coco off"
}
FP16=--fp16
if [ -n "${SMOKE:-}" ]; then smoke; fi
TRAINER=${TRAINER:---optimizer deepspeed_adam --zero-stage 1 $FP16}

PLUGIN="--user-dir user_dir --task video_translate"
# Options of every training. One checkpoint is kept beside the best and the last: 13 GB each.
TRAIN="--num-workers 8
  --save-interval-updates 5000 --validate-interval-updates 5000 --keep-interval-updates 1
  --no-epoch-checkpoints --log-format simple --log-interval 100 --seed 1 ${EXTRA:-}"
# Not the paper's: half of the examples are trained without any text, and none stands at test. Of a
# model that has never seen an empty text, the paper does not say what stands at test: masks, then.
case "${NOISE:-ours}" in
  ours) TEXT="--text-dropout 0.5 --test-text none" ;;
  paper) TEXT="--text-dropout 0 --test-text mask" ;;
  *) echo "error: NOISE: expected ours or paper, found $NOISE" >&2 && exit 2 ;;
esac
# Section 4.1. T5's schedule is constant until the warm-up ends, at the rate from which it then
# falls: fairseq's would rise from 0.
PRETRAINING="--arch video_translate_t5_large --criterion video_translate
  --actions caption,classify --reuse-batch --text-input shuffled-masked --mask-amount batch $TEXT
  --max-target-tokens caption=20,classify=12 --num-frames 32 --frame-size 112 --max-seconds 6
  --lr 1e-3 --video-lr-scale 0.1 --lr-scheduler inverse_sqrt --warmup-updates 50000
  --warmup-init-lr 1e-3 --max-update 250000 --batch-size 8 --disable-validation"
# Appendix C.1: T5's own fine-tuning but for the warm-up and the learning rate. Like there, the best
# of the checkpoints made every 5,000 updates is evaluated. One rate for "the entire encoder-decoder
# model": the video network's is the same, where an architecture's default is a tenth.
GENERATIVE="--arch video_translate_t5_large --criterion video_translate --batch-size 8 $TEXT
  --lr 1e-4 --video-lr-scale 1 --lr-scheduler fixed --warmup-updates 20000 --max-update 262144"
# The best by BLEU on the validation set. Captions of these corpora pass pretraining's 20 tokens; the
# paper names no other length.
CAPTIONING="$GENERATIVE --actions caption --max-target-tokens caption=40
  --eval-bleu --eval-bleu-max-len 40 --best-checkpoint-metric bleu
  --maximize-best-checkpoint-metric"
# Appendix C.2: 1e-5 for the video network and the encoder, 1e-3 for the linear layers.
DISCRIMINATIVE="--arch video_translate_t5_large --criterion video_translate_classification
  --batch-size 8 --lr 1e-5 --video-lr-scale 1 --head-lr-scale 100
  --lr-scheduler step --lr-deacy-period 15000 --lr-decay 0.1 --max-update 40000"
INFER="--batch-size 32 --num-workers 8 ${SMALL_INFER:-}"
EVALUATE=${SMALL_EVALUATE:-}

launch() { ${LAUNCHER:-} "$@"; }

# train_to FOLDER OPTION...: what fairseq-train prints goes to FOLDER.log, too, for the report. A
# signal that stops the training must not stop what writes down its last words.
train_to() {
  mkdir -p "$(dirname "$1")"
  launch fairseq-train "$DATA" $PLUGIN $TRAINER "${@:2}" --save-dir "$1" $TRAIN 2>&1 |
    (trap "" INT TERM USR1 && exec tee -a "$1.log")
}

# A page about all of the recipe's trainings and results.
report() { vt-report "$OUT" --out "$OUT/report.html"; }

# stages A B C -- [NAME]...: run the named functions, or all of them in the order before "--".
stages() {
  local all=() stage
  while [ "$1" != -- ]; do all+=("$1"); shift; done
  shift
  for stage in "${@:-${all[@]}}"; do
    echo "== $RECIPE: $stage"
    "$stage"
  done
}
