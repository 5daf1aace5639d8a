"""The video networks by name: R(2+1)D of several sizes, ready-made ones, and the user's own.

``NAME`` or ``NAME:argument=value,...`` says which network; nothing but that text is needed to make
it again. Shapes: B clips, F frames, T video tokens, H and W pixels.
"""

import importlib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from vt_fairseq.errors import UserError
from vt_fairseq.models.r2plus1d import MEAN, R2PLUS1D_DIMS, STD, R2Plus1D

Value = bool | int | float | str
MAX_SIZE = 2**16  # of a number among a network's arguments
# What a network may ask of its clips: attributes that are the task's options of these names.
INPUT = ("num_frames", "frame_size", "frames_per_second")
MAX_COLOR = 10  # of mean and deviation of colors in [0, 1]; those of 0 ... 255 are larger


class VideoNetwork(Protocol):
    """What a video network, an nn.Module, has. Its constructor reads no file.

    It may also have:

    - ``mean`` and ``std`` of red, green and blue in [0, 1]; by default those of R(2+1)D.
    - ``num_frames`` and ``frame_size`` (pixels), the only clips that it takes, and
      ``frames_per_second`` (float), the rate of consecutive frames that it was trained with. 0 or
      None: any.
    - ``load_pretrained(path)``: take the weights in a file or folder; it returns a
      ``pretrained.filling.Filled``, whose ``new`` are names of the network's own state dict, or
      None where all tensors came from there.
      ``arguments_of(path)``, static: the constructor's arguments that fit these weights.
    - ``freeze(mode)`` and ``checkpoint_video_stages``, as R2Plus1D has them, for the options of
      that name, and ``fold()``, which is called once before inference, in evaluation mode.

    Attributes:
        width: channels of the features.
    """

    width: int

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) from ``Normalize`` of ``r2plus1d`` -> features (B, T, ``width``)."""

    def num_tokens(self, frames: int) -> int:
        """T of a clip of ``frames`` frames."""


MakeNetwork = Callable[..., VideoNetwork]


@dataclass(frozen=True)
class ReadyMade:
    """A network in a module that is imported when the network is used: its library is large."""

    module: str
    make: str

    def load(self) -> MakeNetwork:
        """What makes it; raises UserError where its library is missing or does not import."""
        module = importlib.import_module(f"vt_fairseq.models.networks.{self.module}")
        return getattr(module, self.make)


VIDEO_NETWORKS: dict[str, MakeNetwork | ReadyMade] = {
    **{name: partial(R2Plus1D, dims) for name, dims in R2PLUS1D_DIMS.items()},
    "videomae": ReadyMade("videomae", "VideoMAE"),
    "vjepa2": ReadyMade("vjepa2", "VJEPA2"),
    "vivit": ReadyMade("vivit", "ViViT"),
    "timesformer": ReadyMade("timesformer", "TimeSformer"),
    "clip": ReadyMade("image_frames", "CLIPFrames"),
    "dinov2": ReadyMade("image_frames", "DINOv2Frames"),
    **{
        name: ReadyMade("torchvision_video", name)
        for name in (
            *("r3d_18", "mc3_18", "s3d", "mvit_v1_b", "mvit_v2_s"),
            *("swin3d_t", "swin3d_s", "swin3d_b"),
        )
    },
}


class UnknownNetwork(UserError):
    """No video network has that name."""


def register_video_network(name: str) -> Callable[[MakeNetwork], MakeNetwork]:
    """Give a ``VideoNetwork`` class (or function) of one's own a name that options can use.

    It is called with the arguments that follow the name. Raises ValueError for a name that is
    taken, or has a colon, which arguments follow.
    """
    if ":" in name:
        raise ValueError(f"{name!r}: expected a name without a colon, which arguments follow")

    def register(make: MakeNetwork) -> MakeNetwork:
        if VIDEO_NETWORKS.setdefault(name, make) is not make:
            raise ValueError(f"there is a video network {name!r} already; take another name")
        return make

    return register


def split_name(text: str) -> tuple[str, dict[str, str]]:
    """``NAME:a=1,b=2`` as the name and the arguments; raises UserError where it is none."""
    name, _, rest = text.partition(":")
    arguments: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key in arguments:
            raise UserError(f"{text}: expected NAME:argument=value,... with each argument once")
        arguments[key] = value
    return name, arguments


def joined_name(name: str, arguments: Mapping[str, Any]) -> str:
    """The reverse of ``split_name``."""
    listed = ",".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in arguments.items()
    )
    return f"{name}:{listed}" if listed else name


def network_maker(name: str) -> MakeNetwork:
    """What makes the network of that name; raises UnknownNetwork where there is none."""
    if name not in VIDEO_NETWORKS:
        raise UnknownNetwork(f"{name}: expected one of {', '.join(VIDEO_NETWORKS)}")
    known = VIDEO_NETWORKS[name]
    return known.load() if isinstance(known, ReadyMade) else known


def make_network(text: str) -> Any:
    """The ``VideoNetwork`` that ``NAME:argument=value,...`` names, with random weights.

    Raises UnknownNetwork for the name, and UserError for an argument that it does not take and for
    a network that is not what ``VideoNetwork`` says.
    """
    name, given = split_name(text)
    make = network_maker(name)
    kinds = parameters(make)
    arguments = {}
    for key, value in given.items():
        if key not in kinds:
            expected = ", ".join(kinds) or "none"
            raise UserError(f"{name} has no argument {key!r}: expected {expected}")
        arguments[key] = typed(kinds[key], value, f"{name}:{key}={value}")
    try:
        network = make(**arguments)
    except (TypeError, ValueError, KeyError, ZeroDivisionError, RuntimeError) as error:
        if not arguments:
            raise
        raise UserError(f"{text}: the network cannot be made so: {error!s:.200}") from error
    _check_attributes(network, text)
    return network


def _check_attributes(network: Any, text: str) -> None:
    """Raise UserError where an attribute of the network is not what ``VideoNetwork`` says."""
    whole = ("width", "num_frames", "frame_size")
    for name in (*whole, "frames_per_second"):
        value = getattr(network, name, None)
        kind: Any = numbers.Integral if name in whole else numbers.Real
        if value is None and name != "width":
            continue
        least = 1 if name == "width" else 0
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= MAX_SIZE:
            expected = "a whole number" if name in whole else "a number"
            raise UserError(f"{text}: its {name} is {value!r}, expected {expected} from {least} on")
    try:
        colors(network)
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error


def colors(network: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of red, green and blue in [0, 1] that the network has, or R(2+1)D's.

    Raises ValueError for others.
    """
    found = []
    for name, usual in (("mean", MEAN), ("std", STD)):
        given = getattr(network, name, None)
        try:
            values = tuple(map(float, usual if given is None else given))
        except (TypeError, ValueError):
            values = ()
        valid = all(math.isfinite(v) and abs(v) < MAX_COLOR for v in values)
        if len(values) != 3 or not valid or (name == "std" and min(values) <= 0):
            expected = "three numbers for red, green and blue in [0, 1]"
            raise ValueError(f"its {name} of colors is {given!r}, expected {expected}")
        found.append(values)
    return found[0], found[1]


def parameters(make: MakeNetwork) -> dict[str, type]:
    """The arguments that can be given by name, and their types.

    Of a class also those that its base classes take, where it hands on what it does not name.
    """
    kinds: dict[str, type] = dict(getattr(make, "SIZES", {}))
    classes = make.__mro__ if isinstance(make, type) else ()
    for function in [vars(c)["__init__"] for c in classes if "__init__" in vars(c)] or [make]:
        listed = inspect.signature(function, eval_str=True).parameters.values()
        for parameter in listed:
            untyped = parameter.annotation is parameter.empty
            kind = type(parameter.default) if untyped else parameter.annotation
            if kind in (bool, int, float, str) and parameter.kind is not parameter.VAR_KEYWORD:
                kinds.setdefault(parameter.name, kind)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in listed):
            break
    return kinds


def typed(kind: type, text: str, where: str) -> Value:
    """``text`` as a value of ``kind``; raises UserError where it is none, or too large."""
    try:
        value = {"true": True, "false": False}[text] if kind is bool else kind(text)
        if isinstance(value, int | float) and not abs(value) <= MAX_SIZE:  # nor NaN
            raise ValueError
    except (KeyError, ValueError):
        expected = "true or false" if kind is bool else f"a value of the type {kind.__name__}"
        limit = f" up to {MAX_SIZE:,}" if kind in (int, float) else ""
        raise UserError(f"{where}: expected {expected}{limit}") from None
    return value


def input_of(network: Any) -> dict[str, int | float]:
    """What the network asks of its clips: INPUT that it has, by the names of the task's options.

    A rate asks for consecutive frames.
    """
    asked = {name: getattr(network, name, None) for name in INPUT}
    return {name: value for name, value in asked.items() if value}


def clips_for(text: str) -> dict[str, Any]:
    """The task's options for clips that the network of that name asks for; empty where any do."""
    if text in R2PLUS1D_DIMS:
        return {}
    asked: dict[str, Any] = dict(input_of(network_on_meta(text)))
    return asked | ({"frame_sampling": "consecutive"} if "frames_per_second" in asked else {})


def network_on_meta(text: str) -> Any:
    """``make_network`` without memory for weights, to ask what the network is.

    Raises UserError as it does, and where the constructor needs more than sizes.
    """
    try:
        with torch.device("meta"):
            return make_network(text)
    except (NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(
            f"the video network {text} cannot be made on the meta device: its constructor has to "
            f"do with sizes alone; load_pretrained(path) reads its weights ({error!s:.200})"
        ) from error
