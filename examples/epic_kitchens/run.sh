#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# EPIC-Kitchens-55 (Tables 1 and 8): generative, generative multi-task, discriminative. Variables:
# ../recipe.sh; numbers: README.md.
#   bash examples/epic_kitchens/run.sh [prepare|generative|multitask|discriminative|classes|
#     submission|report]...   (all, in this order)
RECIPE=epic_kitchens CORPUS=epic-kitchens
. "$(dirname "$0")/../recipe.sh"
# Files of up to 90 frames per second are read as if re-encoded at 24 (appendix A.1).
EPIC="--resample-fps 24"

prepare() {
  vt-prepare epic-kitchens --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}"
}

generative() {
  train_to "$OUT/generative" $GENERATIVE $EPIC --actions classify \
    --finetune-from-model "$PRETRAINED"
}

multitask() {
  train_to "$OUT/multitask" $GENERATIVE $EPIC --actions caption,classify \
    --finetune-from-model "$PRETRAINED"
}

discriminative() {
  train_to "$OUT/discriminative" $DISCRIMINATIVE $EPIC --heads verb,noun \
    --best-checkpoint-metric action_accuracy --maximize-best-checkpoint-metric \
    --finetune-from-model "$PRETRAINED"
}

# score MODEL SPLIT OUT [OPTION]...
score() {
  launch vt-score classify "$DATA" --path "$1" --split "$2" --out "$OUT/results/$3" --windows 10 \
    "${@:4}" $INFER
}

# The decoder ranks the pairs of verb and noun that the labels have; --pairs all ranks all 44,000.
classes() {
  score "$PRETRAINED" valid zero_shot --targets action
  score "$OUT/generative/checkpoint_best.pt" valid generative --targets action
  score "$OUT/multitask/checkpoint_best.pt" valid multitask --targets action --caption-first
  score "$OUT/discriminative/checkpoint_best.pt" valid discriminative --targets verb,noun
}

# The archive for the test server, of seen (S1) and unseen (S2) kitchens.
submission() {
  score "$OUT/discriminative/checkpoint_best.pt" test_s1 test_s1 --targets verb,noun
  score "$OUT/discriminative/checkpoint_best.pt" test_s2 test_s2 --targets verb,noun
  vt-submit epic-kitchens --annotations "$ANNOTATIONS" --out "$OUT/results/submission.zip" \
    --predictions "test_s1=$OUT/results/test_s1/scores.jsonl" \
    "test_s2=$OUT/results/test_s2/scores.jsonl"
}

stages prepare generative multitask discriminative classes submission report -- "$@"
