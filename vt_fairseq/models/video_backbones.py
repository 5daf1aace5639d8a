"""The video networks that ``--video-network`` names: R(2+1)D of several sizes, and the user's own.

Shapes: B clips, F frames, T video tokens, H and W pixels.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D

MakeNetwork = Callable[[], nn.Module]
VIDEO_NETWORKS: dict[str, MakeNetwork] = {
    name: partial(R2Plus1D, dims) for name, dims in R2PLUS1D_DIMS.items()
}


def register_video_network(name: str) -> Callable[[MakeNetwork], MakeNetwork]:
    """Make ``--video-network name`` a class (or function) of one's own, called without arguments.

    What it makes is a module that has

    - ``forward``: frames (B, 3, F, H, W) as ``normalize`` of ``r2plus1d`` gives them, to features
      (B, T, ``width``);
    - ``width``: channels of the features;
    - ``num_tokens(frames)``: T of a clip of that many frames;
    - for ``--freeze-video``: ``freeze(mode)``, and for ``--checkpoint-video-stages``:
      ``checkpoint_video_stages``, as R2Plus1D has them;
    - if it has one, ``fold()`` is called once before inference, in evaluation mode.

    Raises ValueError for a name that there is already.
    """

    def register(make: MakeNetwork) -> MakeNetwork:
        if VIDEO_NETWORKS.setdefault(name, make) is not make:
            raise ValueError(f"there is a video network {name!r} already; take another name")
        return make

    return register


def video_network(name: str) -> MakeNetwork:
    """What makes the network of that name; raises UserError where there is none."""
    if name not in VIDEO_NETWORKS:
        raise UserError(
            f"--video-network {name}: expected one of {', '.join(VIDEO_NETWORKS)}; those of your "
            "own are known where --user-dir names the folder that registers them"
        )
    return VIDEO_NETWORKS[name]


def check_options(network: nn.Module, name: str, freeze: str, checkpoint_video_stages: int) -> None:
    """Raise UserError for an option that a network of the user's own does not support."""
    for option, asked, attribute in (
        (f"--freeze-video {freeze}", freeze != "none", "freeze"),
        (
            f"--checkpoint-video-stages {checkpoint_video_stages}",
            checkpoint_video_stages > 0,
            "checkpoint_video_stages",
        ),
    ):
        if asked and not hasattr(network, attribute):
            raise UserError(f"{option}: the video network {name} has no attribute {attribute}")
