#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# Pretraining on HowTo100M with the paper's own text noise: the text is never left out in training,
# and masks stand in its place at test. Variables: ../recipe.sh; numbers: README.md.
#   bash examples/pretrain_howto100m_paper/run.sh [train]
# The data directory and the first weights are those of the recipe pretrain_howto100m, whose stages
# prepare and init come first. Fine-tuning from it takes NOISE=paper, too.
RECIPE=pretrain_howto100m_paper CORPUS=howto100m NOISE=paper
. "$(dirname "$0")/../recipe.sh"
DATA=$RUNS/pretrain_howto100m/data
START=(--finetune-from-model "$RUNS/pretrain_howto100m/init.pt")
if [ -n "${SMOKE:-}" ]; then
  [ -n "${T5:-}" ] || START=() # a smoke run without T5 starts from nothing
  [ -e "$DATA/data.json" ] || RUNS=$RUNS bash examples/pretrain_howto100m/run.sh prepare init
fi

train() {
  launch fairseq-train "$DATA" $PLUGIN $TRAINER $PRETRAINING "${START[@]}" \
    --save-dir "$OUT/checkpoints" $TRAIN
}

stages train -- "$@"
