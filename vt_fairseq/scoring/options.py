"""What ``vt-score`` is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.errors import UserError

KINDS = ("vqa", "retrieval", "classify")
TARGETS = ("label", "verb", "noun", "verb,noun", "action")
PAIRS = ("seen", "all")
SCORERS = ("decoder", "heads")
DECODINGS = ("rank", "beam")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # their names in torch


@dataclass(frozen=True)
class Options:
    """The options of the command; ``vt-score --help`` says what they mean.

    ``check`` raises UserError for those that do not go together.
    """

    kind: str
    data: Path
    path: Path
    out: Path
    split: str = "test"
    # What is ranked
    action: str | None = None
    targets: str | None = None
    pairs: str | None = None
    labels: Path | None = None
    top_k: int | None = None
    # How
    use: str | None = None
    fuse: Path | None = None
    clips: int = 1
    caption_first: bool = False
    decoding: str = "rank"
    beam: int = 5
    length_normalize: bool = False
    # What the model sees
    no_context: bool = False
    video_root: str = ""
    test_window: str = ""
    blank_video: bool = False
    # The run
    restart: bool = False
    batch_size: int = 8
    max_nodes: int = 2048
    num_workers: int = 1
    cpu: bool = False
    dtype: str = "fp32"

    def check(self) -> None:
        """Raise UserError for options that do not go together."""
        for wrong, message in self._conflicts():
            if wrong:
                raise UserError(message)

    def _conflicts(self) -> list[tuple[bool, str]]:
        classify = self.kind == "classify"
        beam, heads = self.decoding == "beam", self.use == "heads"
        averaged = self.clips > 1 or self.fuse is not None
        return [
            (
                not classify
                and any((self.targets, self.pairs, self.labels, self.top_k, self.caption_first)),
                "--targets, --pairs, --labels, --top-k and --caption-first are for classify",
            ),
            (
                self.labels is not None and self.targets not in (None, "label"),
                f"--labels names the classes of --targets label, not of {self.targets}",
            ),
            (
                self.pairs is not None and self.targets not in (None, "verb,noun", "action"),
                f"--pairs is for --targets action or verb,noun, not {self.targets}",
            ),
            (
                self.top_k is not None and (averaged or heads or self.targets == "verb,noun"),
                "--top-k leaves most scores out: it does not go with --clips, --fuse, --use heads "
                "or --targets verb,noun, which need them all",
            ),
            (
                self.fuse is not None and self.kind == "retrieval",
                "--fuse averages answers or classes; there are no heads for retrieval",
            ),
            (
                self.fuse is not None and heads,
                "--fuse takes the decoder of --path and the heads of its own checkpoint: leave "
                "--use heads out",
            ),
            (beam and self.kind != "vqa", "--decoding beam answers questions: it is for vqa"),
            (
                beam and (averaged or heads),
                "--decoding beam gives one answer and no distribution: it does not go with "
                "--clips, --fuse or --use heads",
            ),
            (
                self.caption_first and heads,
                "--caption-first feeds the decoder a caption; it does not go with --use heads",
            ),
            (
                self.clips > 1 and bool(self.test_window),
                "--clips has windows of its own: leave --test-window out",
            ),
        ]
