"""Parts (a) to (f), the paper's table 7: one model pretrained in many ways, scored zero-shot.

Pretraining sees noisy narrations (``caption``) and descriptions (``classify``). Scored are, on
held-out videos, the 132 descriptions, and retrieval by an undisturbed narration.
"""

from fractions import Fraction
from itertools import pairwise

from parts import Measured, Model, Part, Row

COLUMNS = (
    ("description", "accuracy"),
    ("its motion", "motion"),
    ("its object", "object"),
    ("text to video R@1", "r1"),
    ("R@10", "r10"),
)
PAPER = ("EPIC action", "YouCook2 R@10")
JUDGED = ("accuracy", "r1")

BASELINE = (
    *("--criterion", "video_translate", "--train-subset", "pretrain", "--no-context"),
    *("--actions", "caption,classify", "--reuse-batch", "--text-dropout", "0.5"),
)
ALWAYS = ("--text-dropout", "0", "--test-text", "mask")
NOUNS = ("--define-action", "noun=noun:noun :", "--actions", "noun")


def variant(name: str, *options: str, start: str = "") -> Model:
    """The baseline with some options changed."""
    return Model(name, (*BASELINE, *options), start)


def models(sizes: dict[str, str]) -> list[Model]:
    """``sizes``: --t5-dims by name."""
    texts = ("unmodified", "shuffled", "masked")
    return [
        Model("baseline", BASELINE),
        variant("one-frame", "--num-frames", "1"),
        variant("consecutive", "--frame-sampling", "consecutive"),
        variant("pooled", "--video-pooling", "temporal"),
        variant("no-text", "--text-input", "none"),
        *(variant(text, "--text-input", text) for text in texts),
        *(variant(f"{text}-always", "--text-input", text, *ALWAYS) for text in texts),
        variant("shuffled-masked-always", *ALWAYS),
        variant("caption-only", "--actions", "caption"),
        variant("classify-only", "--actions", "classify"),
        Model("nouns", (*BASELINE, *NOUNS), share=Fraction(1, 2)),
        variant("nouns-fixed", "--freeze-video", "all", start="nouns"),
        variant("nouns-last", "--freeze-video", "all-but-last", start="nouns"),
        variant("nouns-all", start="nouns"),
        *(variant(f"t5-{size}", "--t5-dims", dims) for size, dims in sizes.items() if dims),
    ]


def measured(models: list[Model]) -> list[Measured]:
    """Both numbers of every model, each asked with a prompt that it was trained on."""
    found = []
    for name in (model.name for model in models if model.name != "nouns"):
        classify = ("--action", "caption") if name == "caption-only" else ()
        retrieve = ("--action", "classify") if name == "classify-only" else ()
        found += [
            Measured(name, "classify", name, options=classify),
            Measured(name, "retrieval", name, "retrieval", retrieve),
        ]
    return [
        *found,
        Measured("blank", "classify", "baseline", options=("--blank-video",)),
        Measured("blank", "retrieval", "baseline", "retrieval", ("--blank-video",)),
        Measured("still", "classify", "baseline", "still"),
    ]


def parts(sizes: dict[str, str]) -> list[Part]:
    """The tables; ``sizes`` in rising order."""

    def part(letter: str, title: str, rows: tuple[Row, ...], orderings=None) -> Part:
        names = [row.name for row in rows]
        rising = tuple(pairwise(names))
        orderings = rising if orderings is None else orderings
        return Part(letter, title, COLUMNS, rows, PAPER, orderings, JUDGED)

    texts = {"unmodified": (1.3, 8.9), "shuffled": (8.6, 11.4), "masked": (11.9, 17.2)}
    best = (14.3, 19.3)
    papers_sizes = ((14.3, 19.3), (15.1, 19.5), (16.7, 19.9))
    both = Row("both, batches reused", "baseline", best)
    size_rows = [
        Row(size, f"t5-{size}" if dims else "baseline", paper)
        for (size, dims), paper in zip(sizes.items(), papers_sizes, strict=True)
    ]
    return [
        Part(
            *("controls", "Is the question fair? What can be known without motion", COLUMNS),
            (
                Row("the clip", "baseline"),
                Row("gray instead of the clip", "blank"),
                Row("only the middle frame, at test", "still"),
                Row("only the middle frame, in training, too", "one-frame"),
            ),
        ),
        part(
            *("a", "Frames"),
            (
                Row("consecutive", "consecutive", (13.2, 15.9)),
                Row("uniform over the clip", "baseline", best),
            ),
        ),
        part(
            *("b", "Temporal pooling"),
            (Row("yes", "pooled", (11.8, 17.9)), Row("no", "baseline", best)),
        ),
        part(
            *("c", "Text input of training, left out of half of the examples"),
            (
                Row("none", "no-text", (0.9, 2.3)),
                *(Row(text, text, paper) for text, paper in texts.items()),
                Row("shuffled and masked", "baseline", best),
            ),
        ),
        part(
            *("c0", "Text input of training, always there; eight masks at test"),
            (
                Row("none", "no-text", (0.9, 2.3)),
                *(Row(text, f"{text}-always", paper) for text, paper in texts.items()),
                Row("shuffled and masked", "shuffled-masked-always", best),
            ),
        ),
        part(
            *("d", "Task of training"),
            (
                Row("narration", "caption-only", (9.8, 9.4)),
                Row("description", "classify-only", (12.1, 11.2)),
                both,
            ),
            (("caption-only", "baseline"), ("classify-only", "baseline")),
        ),
        part(
            *("e", "Video network, after it has learned to name objects"),
            (
                Row("fixed", "nouns-fixed", (0.5, 3.2)),
                Row("last stage trained", "nouns-last", (11.9, 18.2)),
                Row("all trained", "nouns-all", best),
            ),
        ),
        part("f", "Size of the transformer", tuple(size_rows)),
    ]
