#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# YouCook2: captions (Table 2) and retrieval (Table 5). Variables: ../recipe.sh; numbers: README.md.
#   bash examples/youcook2/run.sh [prepare|train|captions|retrieval|report]...   (all, in this order)
# MODEL=$PRETRAINED for the rows of the tables without fine-tuning.
RECIPE=youcook2 CORPUS=youcook2
. "$(dirname "$0")/../recipe.sh"
MODEL=${MODEL:-$OUT/generative/checkpoint_best.pt}

prepare() {
  vt-prepare youcook2 --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}"
}

train() {
  train_to "$OUT/generative" $CAPTIONING --finetune-from-model "$PRETRAINED"
}

captions() {
  fairseq-generate "$DATA" $PLUGIN --path "$MODEL" --gen-subset valid --action caption \
    --sampling --sampling-topk 5 --beam 1 --max-len-b 40 --results-path "$OUT/captions" $INFER
  vt-evaluate captions --predictions "$OUT/captions/predictions.jsonl" \
    --references "$OUT/captions/references.jsonl" --out "$OUT/captions/metrics.json" $EVALUATE
}

retrieval() {
  launch vt-score retrieval "$DATA" --path "$MODEL" --split retrieval --out "$OUT/retrieval" $INFER
}

stages prepare train captions retrieval report -- "$@"
