#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2086
# EPIC-Kitchens-55 (Tables 1 and 8): the R(2+1)D-34 baseline, generative, generative multi-task,
# discriminative. Variables: ../recipe.sh; numbers: README.md.
#   bash examples/epic_kitchens/run.sh [prepare|baseline|generative|multitask|discriminative|
#     classes|submission|report]...   (all, in this order)
# INIT: what the baseline starts from, IG65M's weights; the recipe pretrain_howto100m makes it.
RECIPE=epic_kitchens CORPUS=epic-kitchens
. "$(dirname "$0")/../recipe.sh"
INIT=${INIT:-$RUNS/pretrain_howto100m/init.pt}
[ -z "${SMOKE:-}" ] || INIT=$PRETRAINED
# Files of up to 90 frames per second are read as if re-encoded at 24 (appendix A.1). The 32 frames
# span the whole segment: A.1 cuts to 6 seconds on HowTo100M, YouCook2 and MSR-VTT alone.
EPIC="--resample-fps 24 --max-seconds 0"

prepare() {
  vt-prepare epic-kitchens --annotations "$ANNOTATIONS" --videos "$VIDEOS" --out "$DATA" \
    "${TOKENIZER:---vocabulary=$VOCABULARY}"
}

# Appendix C.2: 27 epochs of 6 clips per GPU, 0.0025 and a tenth after each 9 epochs, one epoch of
# warm-up: 484 updates of 48 of the 23,191 clips, on 8 GPUs. The rates are listed epoch by epoch.
# The paper names no optimizer; that rate is SGD's: with Nesterov momentum, by fairseq's own trainer.
baseline() {
  local rates
  rates=$(printf '%s,' 0.0025{,,,,,,,,} 0.00025{,,,,,,,,} 0.000025{,,,,,,,,})
  TRAINER="--optimizer nag --momentum 0.9 --weight-decay 1e-4 $FP16" \
    train_to "$OUT/baseline" --arch video_translate_t5_large --heads verb,noun --heads-on video \
    --criterion video_translate_classification --video-lr-scale 1 --head-lr-scale 1 \
    --lr "${rates%,}" --lr-scheduler fixed --warmup-updates 484 --max-epoch 27 --batch-size 6 \
    $EPIC --best-checkpoint-metric action_accuracy --maximize-best-checkpoint-metric \
    --finetune-from-model "$INIT"
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

# The decoder ranks the 2,513 pairs of verb and noun that the labels have.
classes() {
  score "$OUT/baseline/checkpoint_best.pt" valid baseline --targets verb,noun
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

stages prepare baseline generative multitask discriminative classes submission report -- "$@"
