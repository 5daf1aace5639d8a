"""Part (g), the paper's tables 1 and 6: generative, multi-task, discriminative and fused models.

All start from the pretrained baseline and see few clips. Questions are of two sorts: about the
video (MiniWorld's own), and about the talk in the subtitles, which cannot be answered without them.
"""

from fractions import Fraction

from parts import Measured, Model, Part, Row

PROMPTS = ("--define-action", "action=action:classify :")
GENERATIVE = (*PROMPTS, "--criterion", "video_translate", "--text-dropout", "0.8")
HEADS = ("--criterion", "video_translate_classification", "--head-lr-scale", "4")
ACTIONS = ("--train-subset", "train", "--no-context")
ASK = ("--train-subset", "ask")
TALK = "talk"
UPDATES = Fraction(1, 3)


def tuned(name: str, *options: str, repeats: int = 1) -> Model:
    """``repeats``: two tasks on each batch make it twice as many updates."""
    return Model(name, options, "baseline", repeats * UPDATES, falling=False)


def models() -> list[Model]:
    """One training each."""
    action = (*GENERATIVE, *ACTIONS, "--actions", "action")
    both = (*GENERATIVE, *ACTIONS, "--actions", "caption,action", "--reuse-batch")
    heads = (*HEADS, *ACTIONS, "--heads", "verb,noun")
    answer, answer_heads = ("--actions", "answer"), ("--heads", "answer")
    return [
        tuned("action", *action),
        tuned("caption-action", *both, repeats=2),
        tuned("action-heads", *heads),
        tuned("answer", *GENERATIVE, *ASK, "--no-context", *answer),
        tuned("answer-heads", *HEADS, *ASK, "--no-context", *answer_heads),
        tuned("answer-subtitles", *GENERATIVE, *ASK, *answer),
        tuned("answer-heads-subtitles", *HEADS, *ASK, *answer_heads),
        tuned("action-fixed", *action, "--freeze-video", "all"),
        tuned("action-last", *action, "--freeze-video", "all-but-last"),
    ]


def measured() -> list[Measured]:
    """Verbs, nouns and actions; questions without and with subtitles."""
    pairs = ("--targets", "action", "--pairs", "seen")
    first = (*pairs, "--caption-first")
    found = [
        Measured("gen", "classify", "action", options=pairs),
        Measured("gen-MT", "classify", "caption-action", options=pairs),
        Measured("gen-MT-caption", "classify", "caption-action", options=first),
        Measured("discr", "classify", "action-heads"),
        Measured("fused", "classify", "action", options=pairs, fuse="action-heads"),
        Measured("gen-fixed", "classify", "action-fixed", options=pairs),
        Measured("gen-last", "classify", "action-last", options=pairs),
        Measured("gen-video-blank", "vqa", "answer", options=("--blank-video",)),
    ]
    for split, what in (("test", "video"), (TALK, TALK)):
        for suffix in ("", "-subtitles"):
            decoder, heads, name = f"answer{suffix}", f"answer-heads{suffix}", f"{what}{suffix}"
            found += [
                Measured(f"gen-{name}", "vqa", decoder, split),
                Measured(f"discr-{name}", "vqa", heads, split),
                Measured(f"fused-{name}", "vqa", decoder, split, fuse=heads),
            ]
    return found


CLASSES = (("action", "action_top1"), ("verb", "verb_top1"), ("noun", "noun_top1"))
CLASS_KEYS = tuple(key for _, key in CLASSES)
EPIC = ("EPIC action", "verb", "noun")  # validation set


def parts() -> list[Part]:
    """The tables."""
    return [
        Part(
            *("g", "Classification, fine-tuned on 500 clips", CLASSES),
            (
                Row("generative", "gen", (25.7, 56.3, 35.6)),
                Row("generative, multi-task", "gen-MT"),
                Row("the same, caption first", "gen-MT-caption", (26.0, 58.0, 36.5)),
                Row("discriminative", "discr", (27.8, 59.4, 37.8)),
                Row("generative and discriminative fused", "fused"),
            ),
            EPIC,
            (
                ("gen", "gen-MT-caption"),
                ("gen-MT", "gen-MT-caption"),
                ("gen-MT-caption", "discr"),
                ("discr", "fused"),
            ),
            CLASS_KEYS,
        ),
        Part(
            *("e", "Video network in fine-tuning, after it has learned narrations", CLASSES),
            (
                Row("fixed", "gen-fixed"),
                Row("last stage trained", "gen-last"),
                Row("all trained", "gen"),
            ),
            orderings=(("gen-fixed", "gen-last"), ("gen-last", "gen")),
            judged=CLASS_KEYS,
        ),
        *(questions(what, suffix) for what in ("video", TALK) for suffix in ("", "-subtitles")),
    ]


def questions(what: str, suffix: str) -> Part:
    """One of the four tables of answers; the paper's are of questions that need both."""
    paper = {"video": (58.72, 61.09, 63.01), "talk-subtitles": (73.51, 75.19, 76.38)}
    numbers = [(number,) for number in paper.get(what + suffix, ())] or [()] * 3
    names = [f"{kind}-{what}{suffix}" for kind in ("gen", "discr", "fused")]
    labels = ("generative", "discriminative", "fused")
    rows = tuple(map(Row, labels, names, numbers))
    orderings = ((names[0], names[1]), (names[1], names[2]))
    if what == "video" and not suffix:
        rows += (Row("generative, gray instead of the clip", "gen-video-blank"),)
    if what == TALK and suffix:
        orderings += (("gen-talk", names[0]), ("discr-talk", names[1]), ("fused-talk", names[2]))
    subtitles = "with" if suffix else "without"
    return Part(
        *("g", f"Questions about the {what}, {subtitles} subtitles", (("accuracy", "accuracy"),)),
        *(rows, ("TVQA",) if paper.get(what + suffix) else (), orderings, ("accuracy",)),
    )
