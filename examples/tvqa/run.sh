#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# TVQA (Table 6): generative, discriminative and fused, with subtitles, or without: SUBTITLES=no.
# Variables: ../recipe.sh; numbers: README.md.
#   bash examples/tvqa/run.sh [prepare|generative|discriminative|answers|submission]...
# (all, in this order)
RECIPE=tvqa CORPUS=tvqa
. "$(dirname "$0")/../recipe.sh"
MODELS=$OUT/subtitles_${SUBTITLES:=yes}
RESULTS=$OUT/results_$SUBTITLES
# The whole span that the question is about: 32 of its frames at 3 a second. The question takes the
# place of the text: no noisy answer beside it.
TVQA="--max-seconds 0"
[ "$SUBTITLES" != no ] || TVQA="$TVQA --no-context"

prepare() {
  vt-prepare tvqa --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}" --subtitles span
}

generative() {
  launch fairseq-train "$DATA" $PLUGIN $GENERATIVE $TVQA --actions answer --text-input none \
    --finetune-from-model "$PRETRAINED" --save-dir "$MODELS/generative" $TRAIN
}

discriminative() {
  launch fairseq-train "$DATA" $PLUGIN $DISCRIMINATIVE $TVQA --heads answer \
    --best-checkpoint-metric answer_accuracy --maximize-best-checkpoint-metric \
    --finetune-from-model "$PRETRAINED" --save-dir "$MODELS/discriminative" $TRAIN
}

answers() {
  local generative=$MODELS/generative/checkpoint_best.pt
  local discriminative=$MODELS/discriminative/checkpoint_best.pt
  launch vt-score vqa "$DATA" --path "$generative" --split valid \
    --out "$RESULTS/generative" $INFER
  launch vt-score vqa "$DATA" --path "$discriminative" --split valid \
    --out "$RESULTS/discriminative" $INFER
  launch vt-score vqa "$DATA" --path "$generative" --fuse "$discriminative" --split valid \
    --out "$RESULTS/fused" $INFER
}

# For the test server.
submission() {
  launch vt-score vqa "$DATA" --path "$MODELS/generative/checkpoint_best.pt" \
    --fuse "$MODELS/discriminative/checkpoint_best.pt" --split test --out "$RESULTS/test" $INFER
  vt-submit tvqa --predictions "$RESULTS/test/predictions.jsonl" --out "$RESULTS/submission.json"
}

stages prepare generative discriminative answers submission -- "$@"
