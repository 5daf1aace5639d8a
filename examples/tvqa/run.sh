#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# TVQA (Table 6): generative, discriminative and fused, with subtitles, or without: SUBTITLES=no.
# Variables: ../recipe.sh; numbers: README.md.
#   bash examples/tvqa/run.sh [prepare|generative|discriminative|answers|submission|report]...
# (all, in this order)
RECIPE=tvqa CORPUS=tvqa
. "$(dirname "$0")/../recipe.sh"
MODELS=$OUT/subtitles_${SUBTITLES:=yes}
RESULTS=$OUT/results_$SUBTITLES
# The whole span that the question is about: 32 of its frames at 3 per second. The question is
# the text (4.2.4), with no noisy answer beside it, nor masks for one; subtitles follow as context.
TVQA="--max-seconds 0"
[ "$SUBTITLES" != no ] || TVQA="$TVQA --no-context"

prepare() {
  vt-prepare tvqa --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}" --subtitles span
}

generative() {
  train_to "$MODELS/generative" $GENERATIVE $TVQA --actions answer --text-input none --test-text none \
    --finetune-from-model "$PRETRAINED"
}

discriminative() {
  train_to "$MODELS/discriminative" $DISCRIMINATIVE $TVQA --heads answer \
    --best-checkpoint-metric answer_accuracy --maximize-best-checkpoint-metric \
    --finetune-from-model "$PRETRAINED"
}

# score MODEL SPLIT OUT [OPTION]...
score() {
  launch vt-score vqa "$DATA" --path "$MODELS/$1/checkpoint_best.pt" --split "$2" \
    --out "$RESULTS/$3" "${@:4}" $INFER
}

answers() {
  score generative valid generative
  score discriminative valid discriminative
  score generative valid fused --fuse "$MODELS/discriminative/checkpoint_best.pt"
}

# The archive for the test server; meta.json describes the model and is yours to fill in.
submission() {
  score generative test test --fuse "$MODELS/discriminative/checkpoint_best.pt"
  vt-submit tvqa --annotations "$ANNOTATIONS" --meta examples/tvqa/meta.json \
    --predictions "valid=$RESULTS/fused/predictions.jsonl" "test=$RESULTS/test/predictions.jsonl" \
    --out "$RESULTS/submission.zip"
}

stages prepare generative discriminative answers submission report -- "$@"
