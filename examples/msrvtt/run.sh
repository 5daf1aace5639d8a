#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# MSR-VTT: captions (Table 2) and retrieval (Table 5). Variables: ../recipe.sh; numbers: README.md.
#   bash examples/msrvtt/run.sh [prepare|train|captions|train_7k|retrieval|report]...
# (all, in this order)
# Captions are trained and tested on the official split, retrieval on the list of 7,010 videos and
# 1k-A. MODEL=$PRETRAINED for the rows of the tables without fine-tuning.
RECIPE=msrvtt CORPUS=msrvtt
. "$(dirname "$0")/../recipe.sh"

prepare() {
  vt-prepare msrvtt --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}"
}

train() {
  train_to "$OUT/generative" $CAPTIONING --finetune-from-model "$PRETRAINED"
}

captions() {
  fairseq-generate "$DATA" $PLUGIN --path "${MODEL:-$OUT/generative/checkpoint_best.pt}" \
    --gen-subset test --action caption --sampling --sampling-topk 5 --beam 1 --max-len-b 40 \
    --results-path "$OUT/captions" $INFER
  vt-evaluate captions --predictions "$OUT/captions/predictions.jsonl" \
    --references "$OUT/captions/references.jsonl" --out "$OUT/captions/metrics.json" $EVALUATE
}

# train_7k holds the official validation videos, so there is nothing to choose a checkpoint by.
train_7k() {
  train_to "$OUT/generative_7k" $GENERATIVE --actions caption \
    --max-target-tokens caption=40 --train-subset train_7k --disable-validation \
    --finetune-from-model "$PRETRAINED"
}

retrieval() {
  launch vt-score retrieval "$DATA" --path "${MODEL:-$OUT/generative_7k/checkpoint_last.pt}" \
    --split retrieval --out "$OUT/retrieval" $INFER
}

stages prepare train captions train_7k retrieval report -- "$@"
