#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# Pretraining on HowTo100M (section 4.1). Variables: ../recipe.sh; numbers: README.md.
#   bash examples/pretrain_howto100m/run.sh [prepare|init|train]...   (all, in this order)
# T5 is the folder of t5-large, IG65M the file of R(2+1)D-34. Many nodes: slurm.sbatch, torchrun.sh.
RECIPE=pretrain_howto100m CORPUS=howto100m
. "$(dirname "$0")/../recipe.sh"
START=(--finetune-from-model "$OUT/init.pt")
[ -z "${SMOKE:-}" ] || [ -n "${T5:-}" ] || START=() # a smoke run without T5 starts from nothing

prepare() {
  vt-prepare howto100m --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}"
}

init() {
  [ "${#START[@]}" = 0 ] || vt-init --t5 "${T5:?}" --video "${IG65M:?}" \
    --arch video_translate_t5_large --out "$OUT/init.pt" ${SMALL_INIT:-}
}

train() {
  launch fairseq-train "$DATA" $PLUGIN $TRAINER $PRETRAINING "${START[@]}" \
    --save-dir "$OUT/checkpoints" $TRAIN
}

stages prepare init train -- "$@"
