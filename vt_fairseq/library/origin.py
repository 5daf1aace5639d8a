"""What a library was made with: its model's checkpoint, which later commands open by themselves.

A stranger's library could name any file of this machine. So the checkpoint's path is signed with a
key of the user's own (``data/root_signatures.py``), and opened only where that is this user's.
"""

import json
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.data.root_signatures import CHECKPOINT, is_signed, sign
from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import parse_json
from vt_fairseq.library.store import Store

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Origin:
    """How a model has to be opened to go on with a library.

    Attributes:
        checkpoint: absolute; None where nothing shows that the user wants it opened.
        dtype: precision of the weights and of the stored states, one of PRECISIONS.
        window: what is seen of segments that are longer than in training.
    """

    checkpoint: Path | None
    dtype: str
    window: str


def read_origin(path: str | os.PathLike[str]) -> Origin:
    """That of the library at ``path``; raise UserError where there is none."""
    with closing(Store(path)) as store:
        settings = checked_settings(store)
    try:
        checkpoint = Path(parse_json(settings["checkpoint"]))
        signed = is_signed(checkpoint, settings["signature"], CHECKPOINT)
    except (KeyError, ValueError, TypeError):
        signed = False
    return Origin(checkpoint if signed else None, settings["dtype"], settings["window"])


def record_origin(store: Store, checkpoint: Path) -> None:
    """Write down where the model came from."""
    signature = sign(checkpoint, CHECKPOINT)
    with store.transaction():
        store.set(
            {"checkpoint": json.dumps(str(checkpoint), allow_nan=False), "signature": signature}
        )


def checked_settings(store: Store) -> dict[str, str]:
    """A library's settings; raise UserError where it has none, or unknown ones."""
    settings = store.settings()
    if not settings.keys() >= {"model", "dtype", "window"}:
        raise UserError(f"{store.path} holds nothing yet: vt-index has not begun to fill it")
    if settings["dtype"] not in PRECISIONS:
        raise UserError(
            f"{store.path} has states of an unknown precision {settings['dtype']!r:.20}"
        )
    return settings
