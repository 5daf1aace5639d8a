#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# TVC: captions (Table 3), with subtitles, or without: SUBTITLES=no. Variables: ../recipe.sh;
# numbers: README.md.
#   bash examples/tvc/run.sh [prepare|train|captions|submission|report]...   (all, in this order)
RECIPE=tvc CORPUS=tvc
. "$(dirname "$0")/../recipe.sh"
MODEL=${MODEL:-$OUT/subtitles_${SUBTITLES:=yes}/checkpoint_best.pt}
RESULTS=$OUT/results_$SUBTITLES
# The moment's whole length: 32 of its frames at 3 per second.
TVC="--max-seconds 0"
[ "$SUBTITLES" != no ] || TVC="$TVC --no-context"

prepare() {
  vt-prepare tvc --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}" --subtitles span
}

train() {
  train_to "$OUT/subtitles_$SUBTITLES" $CAPTIONING $TVC --finetune-from-model "$PRETRAINED"
}

# generate SPLIT
generate() {
  fairseq-generate "$DATA" $PLUGIN --path "$MODEL" --gen-subset "$1" --action caption \
    --beam 1 --max-len-b 40 --results-path "$RESULTS/$1" $INFER
}

captions() {
  generate valid
  vt-evaluate captions --predictions "$RESULTS/valid/predictions.jsonl" --ascii-only \
    --references "$RESULTS/valid/references.jsonl" --out "$RESULTS/valid/metrics.json" $EVALUATE
}

# The archive for the test server.
submission() {
  generate test
  vt-submit tvc --annotations "$ANNOTATIONS" --out "$RESULTS/submission.zip" \
    --predictions "valid=$RESULTS/valid/predictions.jsonl" "test=$RESULTS/test/predictions.jsonl"
}

stages prepare train captions submission report -- "$@"
