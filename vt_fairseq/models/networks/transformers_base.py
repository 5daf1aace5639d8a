"""What the networks around models of the ``transformers`` library have in common."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.networks.wrapping import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    WrappedNetwork,
    color,
    library,
    quiet,
)
from vt_fairseq.models.pretrained.files import read_json, read_weights
from vt_fairseq.models.pretrained.filling import NOTHING, Filled, check_names, fill_module
from vt_fairseq.models.video_backbones import Value

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
MAX_LAYERS, MAX_STATES = 1000, 2**28
"""More is a mistake, or a file that is to fill the memory."""


class TransformersNetwork(WrappedNetwork):
    """A model of transformers, made of sizes alone; ``load_pretrained`` reads its weights.

    Args:
        pooling, tokens: of ``TokenPooling``.
        frames_per_second: the rate of consecutive frames, 0 for frames spread over the clip.
        mean, std: of the colors, as 0.5/0.5/0.5; "" for those of the first weights of its kind.
        sizes: some of SIZES, as in transformers' ``config.json``.

    Attributes:
        KIND: ``model_type`` in ``config.json``, and the key of a part of it that is read instead.
        CLASSES: transformers' configuration and model.
        SIZES: what a checkpoint has to say of a model, and the types.
        LEFT_OUT: tensors in files that are of no use here.
        CONFIG_OPTIONS, MODEL_OPTIONS: what these are always called with.
        COLORS: mean and deviation of the first weights of its kind.
    """

    KIND: ClassVar[tuple[str, str]]
    CLASSES: ClassVar[tuple[str, str]]
    SIZES: ClassVar[Mapping[str, type]]
    LEFT_OUT: ClassVar[str]
    CONFIG_OPTIONS: ClassVar[Mapping[str, Any]] = {}
    MODEL_OPTIONS: ClassVar[Mapping[str, Any]] = {}
    COLORS: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = (IMAGENET_MEAN, IMAGENET_STD)

    def __init__(
        self,
        pooling: str = "spatial",
        tokens: int = 0,
        frames_per_second: float = 0.0,
        mean: str = "",
        std: str = "",
        **sizes: Any,
    ):
        config_class, model_class = (getattr(library("transformers"), n) for n in self.CLASSES)
        self.config = config_class(**sizes, **self.CONFIG_OPTIONS)
        self.check_size(sizes.get("num_hidden_layers"))
        model = model_class(self.config, **self.MODEL_OPTIONS)
        model, layers = self.parts_of(model)
        super().__init__(model, layers, self.config.hidden_size, pooling, tokens)
        self.mean = color(mean) if mean else self.COLORS[0]
        self.std = color(std) if std else self.COLORS[1]
        self.frames_per_second = frames_per_second

    def check_size(self, layers: Value | None) -> None:
        """Raise UserError for sizes that no machine holds, before modules and tables are made."""
        steps, places = self.grid(getattr(self, "num_frames", None) or 1)
        numbers = steps * places * self.config.hidden_size
        if (isinstance(layers, int) and layers > MAX_LAYERS) or numbers > MAX_STATES:
            raise UserError(
                f"{layers} layers and clips of {steps * places:,} tokens of "
                f"{self.config.hidden_size}: expected at most {MAX_LAYERS} layers and "
                f"{MAX_STATES:,} numbers"
            )

    def parts_of(self, model: Any) -> tuple[nn.Module, Any]:
        """What is used of transformers' model, and its layers."""
        return model, model.encoder.layer

    @classmethod
    def arguments_of(cls, path: Path) -> dict[str, Value]:
        """SIZES in the ``config.json`` of a folder, read as data, and the colors beside it.

        Raises UserError where they are another model's.
        """
        config = read_json(path / CONFIG)
        kind, part = cls.KIND
        inner: dict[str, Any] = config[part] if isinstance(config.get(part), dict) else config
        if inner.get("model_type") != kind:
            raise UserError(
                f"{path / CONFIG}: expected model_type {kind}, found {config.get('model_type')!r}"
            )
        found: dict[str, Value] = {}
        for name, expected in cls.SIZES.items():
            value: Any = inner.get(name)
            if type(value) is int and expected is float:
                value = float(value)
            if value is not None and type(value) is not expected:
                raise UserError(f"{path / CONFIG}: {name} is {value!r}, no {expected.__name__}")
            if value is not None:
                found[name] = cast(Value, value)
        if (path / PREPROCESSOR).is_file():
            colors = read_json(path / PREPROCESSOR)
            for name, default in zip(("mean", "std"), cls.COLORS, strict=True):
                values = colors.get(f"image_{name}") or default
                if isinstance(values, int | float):  # the same for all three
                    values = [values] * 3
                if not isinstance(values, list | tuple) or tuple(values) != default:
                    text = "/".join(map(str, values)) if isinstance(values, list) else str(values)
                    found[name] = text
                    color(text)
        return found

    def load_pretrained(self, path: Path) -> Filled:
        """The weights of a folder or file, which transformers renames where they are older.

        Raises UserError where a tensor is missing, unknown, of another shape or not finite.
        """
        unused = re.compile(self.LEFT_OUT)
        tensors = read_weights(path)
        dropped = sorted(filter(unused.fullmatch, tensors))
        transformers = library("transformers")
        with quiet(transformers):
            made, report = getattr(transformers, self.CLASSES[1]).from_pretrained(
                None,
                config=self.config,
                state_dict={name: t for name, t in tensors.items() if name not in dropped},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **self.MODEL_OPTIONS,
            )
        if wrong := sorted(report["mismatched_keys"]):
            name, theirs, ours = wrong[0]
            raise UserError(f"{path}: {name} is {tuple(theirs)}, the model's {tuple(ours)}")
        missing = {n for n in report["missing_keys"] if not unused.fullmatch(n)}
        check_names(missing, set(report["unexpected_keys"]), NOTHING, path)
        fill_module(self.model, self.parts_of(made)[0].state_dict(), origin=path)
        own = {f"model.{name}" for name in self.model.state_dict()}
        return Filled(dropped, sorted(self.state_dict().keys() - own))
