"""Video understanding as machine translation: a fairseq plugin (arXiv 2006.07203).

``from vt_fairseq import VideoTranslate`` opens a trained model; nothing heavy is imported before.
"""

from typing import TYPE_CHECKING, Any

from vt_fairseq.version import __version__

if TYPE_CHECKING:
    from vt_fairseq.inference.api import Decoding, VideoTranslate

__all__ = ["Decoding", "VideoTranslate", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in ("Decoding", "VideoTranslate"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vt_fairseq.quiet_imports import quiet_imports

    with quiet_imports():
        from vt_fairseq.inference import api
    return getattr(api, name)
