"""What ``vt-score`` is asked to do; imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.errors import UserError

KINDS = ("vqa", "retrieval", "classify")
TARGETS = ("label", "verb", "noun", "verb,noun", "action")
PAIRS = ("labeled", "seen", "all")
SCORERS = ("decoder", "heads")
DECODINGS = ("rank", "beam")


@dataclass(frozen=True)
class ScoreOptions:
    """The options of the command; ``vt-score --help`` says what they mean."""

    kind: str
    data: Path
    path: Path
    out: Path
    split: str = "test"
    # What is ranked
    action: str | None = None
    targets: str | None = None
    pairs: str | None = None
    labels: Sequence[str] | None = None
    top_k: int | None = None
    # How
    use: str | None = None
    fuse: Path | None = None
    windows: int = 1
    caption_first: bool = False
    decoding: str = "rank"
    beam: int = 5
    length_normalize: bool = False
    # What the model sees
    context: bool | None = None  # as the checkpoint has it
    video_root: str = ""
    follow_links: bool = False
    test_window: str = ""
    blank_video: bool = False
    # The run
    restart: bool = False
    batch_size: int = 8
    max_nodes: int = 2048
    num_workers: int = 1
    device: str | None = None
    dtype: str = "fp32"
    cuda_graphs: bool = False

    def check(self) -> None:
        """Raise UserError for options that do not go together."""
        beam, heads = self.decoding == "beam", self.use == "heads"
        averages = self.windows > 1 or self.fuse
        for_classify = (self.targets, self.pairs, self.labels, self.top_k, self.caption_first)
        conflicts = [
            (
                self.kind != "classify" and any(for_classify),
                "--targets, --pairs, --labels, --top-k and --caption-first are for classify",
            ),
            (
                self.labels and self.targets not in (None, "label"),
                f"--labels names the classes of --targets label, not of {self.targets}",
            ),
            (
                self.pairs and self.targets not in (None, "verb,noun", "action"),
                f"--pairs is for --targets action or verb,noun, not {self.targets}",
            ),
            (
                self.top_k and averages,
                "--top-k leaves most scores out: it does not go with --windows or --fuse, which "
                "need them all",
            ),
            (
                self.top_k and self.targets not in (None, "label", "action"),
                f"--top-k is for --targets label or action, not {self.targets}",
            ),
            (
                self.fuse and self.kind == "retrieval",
                "--fuse averages answers or classes; there are no heads for retrieval",
            ),
            (
                self.fuse and heads,
                "--fuse takes the decoder of --path and the heads of its own checkpoint: leave "
                "--use heads out",
            ),
            (beam and self.kind != "vqa", "--decoding beam answers questions: it is for vqa"),
            (
                beam and averages,
                "--decoding beam gives one answer and no distribution: it does not go with "
                "--windows or --fuse",
            ),
            (
                heads and (beam or self.top_k or self.caption_first),
                "--top-k, --caption-first and --decoding beam are for the decoder, and the heads "
                f"of {self.path} are in use: take --use decoder",
            ),
            (
                self.windows > 1 and self.test_window,
                "--windows chooses the windows itself: leave --test-window out",
            ),
        ]
        for conflict, message in conflicts:
            if conflict:
                raise UserError(message)
