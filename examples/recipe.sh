# Sourced by every recipe's run.sh, which sets RECIPE (its folder) and CORPUS before.
#
#   ANNOTATIONS  folder of the corpus's annotation files       VOCABULARY  T5's spiece.model
#   VIDEOS       folder of its videos or frames                PRETRAINED  checkpoint to start from
#   OUT          where everything goes                         (runs/RECIPE)
#   TRAINER      optimizer and precision                       (DeepSpeed, ZeRO stage 1, fp16)
#   LAUNCHER     put before fairseq-train and vt-score, for instance
#                "torchrun --nproc-per-node 8 --no-python"; without one fairseq-train takes all GPUs
#   SMOKE=1      the same commands on a CPU in a minute, on MiniWorld as CORPUS's files; the options
#                that make it small come last and so count. Numbers from it mean nothing.
#
# Gives run.sh: PLUGIN, PREPARE, GENERATIVE, TRAIN, INFER, DATA, and `stages`.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-runs/$RECIPE}
DATA=$OUT/data
PLUGIN=(--user-dir user_dir --task video_translate)
read -ra LAUNCHER <<<"${LAUNCHER:-}"
read -ra TRAINER <<<"${TRAINER:---optimizer deepspeed_adam --zero-stage 1 --fp16}"

# Generative fine-tuning: appendix C.1. The best checkpoint of those made every 5,000 updates is
# the one to evaluate, as in the T5 paper whose procedure this follows.
GENERATIVE=(
  --arch video_translate_t5_large --criterion video_translate
  --lr 1e-4 --lr-scheduler fixed --warmup-updates 20000 --max-update 262144 --batch-size 8
)
EVERY=(
  --save-interval-updates 5000 --validate-interval-updates 5000 --keep-interval-updates 1
  --no-epoch-checkpoints
)
TRAIN=("${TRAINER[@]}" "${EVERY[@]}" --num-workers 8 --log-format simple --log-interval 100)
INFER=(--num-workers 8)

make_smoke() {
  local world=$OUT/world
  OUT_ROOT=$(dirname "$OUT")
  vt-prepare miniworld --as "$CORPUS" --size tiny --workers 1 --out "$world"
  ANNOTATIONS=$world/annotations VIDEOS=$world/videos
}

# Runs the named stages, or all of them in the order given before "--".
stages() {
  local all=() stage
  while [ "$1" != -- ]; do all+=("$1"); shift; done
  shift
  for stage in "${@:-${all[@]}}"; do
    echo "== $RECIPE: $stage"
    "$stage"
  done
}
