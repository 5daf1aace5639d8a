#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# TVC: captions (Table 3), with subtitles, or without: SUBTITLES=no. Variables: ../recipe.sh;
# numbers: README.md.
#   bash examples/tvc/run.sh [prepare|train|captions|submission]...   (all, in this order)
RECIPE=tvc CORPUS=tvc
. "$(dirname "$0")/../recipe.sh"
MODEL=${MODEL:-$OUT/subtitles_${SUBTITLES:=yes}/checkpoint_best.pt}
RESULTS=$OUT/results_$SUBTITLES
# The moment's whole length: 32 of its frames at 3 a second.
TVC="--max-seconds 0"
[ "$SUBTITLES" != no ] || TVC="$TVC --no-context"

prepare() {
  vt-prepare tvc --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}" --subtitles span
}

train() {
  launch fairseq-train "$DATA" $PLUGIN $CAPTIONING $TVC --finetune-from-model "$PRETRAINED" \
    --save-dir "$OUT/subtitles_$SUBTITLES" $TRAIN
}

captions() {
  fairseq-generate "$DATA" $PLUGIN --path "$MODEL" --gen-subset valid --action caption \
    --beam 1 --max-len-b 40 --results-path "$RESULTS/valid" $INFER
  vt-evaluate captions --predictions "$RESULTS/valid/predictions.jsonl" --ascii-only \
    --references "$RESULTS/valid/references.jsonl" --out "$RESULTS/metrics.json" $EVALUATE
}

# For the test server.
submission() {
  fairseq-generate "$DATA" $PLUGIN --path "$MODEL" --gen-subset test --action caption \
    --beam 1 --max-len-b 40 --results-path "$RESULTS/test" $INFER
  vt-submit tvc --predictions "$RESULTS/test/predictions.jsonl" --data "$DATA" \
    --out "$RESULTS/submission.jsonl"
}

stages prepare train captions submission -- "$@"
