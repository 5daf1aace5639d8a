"""What the networks around models of other libraries have in common.

Shapes: B clips, T steps in time, P places of a step, C width.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.networks.pooling import TokenPooling

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WrappedNetwork(nn.Module):
    """A ``VideoNetwork`` around ``model``; subclasses have ``tokens_of`` and ``grid``.

    Args:
        model: the other library's module.
        layers: those of its layers of which the last one comes last.
        width: C.
        pooling, tokens: of ``TokenPooling``.
    """

    def __init__(self, model: nn.Module, layers: Any, width: int, pooling: str, tokens: int):
        super().__init__()
        self.model, self._layers = model, (layers,)  # in a tuple: not registered twice
        self.width = width
        self.pool = TokenPooling(width, pooling, tokens)
        self._frozen: tuple[nn.Module, ...] = ()

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C)."""
        raise NotImplementedError

    def grid(self, frames: int) -> tuple[int, int]:
        """T and P of a clip of so many frames."""
        raise NotImplementedError

    def num_tokens(self, frames: int) -> int:
        """Tokens of a clip after pooling."""
        return self.pool.num_tokens(*self.grid(frames))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, ``num_tokens(F)``, C)."""
        return self.pool(self.tokens_of(video))

    def freeze(self, mode: str) -> None:
        """Freeze "all" of the model, "all-but-last" of its layers, or "none"; the pooling trains.

        What is frozen stays in evaluation mode. Raises KeyError for another mode.
        """
        last = self._layers[0][-1]
        kept = set(last.modules())
        early = [m for m in self.model.modules() if m not in kept and last not in m.modules()]
        self._frozen = {"all": (self.model,), "all-but-last": (*early,), "none": ()}[mode]
        self.model.requires_grad_(not self._frozen)
        if mode == "all-but-last":
            last.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "WrappedNetwork":
        """Set the mode of what is not frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def library(name: str) -> Any:
    """A library that is no dependency of this project; UserError where it does not import."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"of this kind needs {name}, which does not import beside torch "
            f"{torch.__version__}: {reason}; install the {name} that goes with it"
        ) from error


@contextmanager
def quiet(module: Any) -> Iterator[None]:
    """Without what transformers shows while it loads: what was loaded is in our own reports."""
    log = module.utils.logging
    verbosity, shows_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shows_bars:
            log.enable_progress_bar()


def color(text: str) -> tuple[float, ...]:
    """Three numbers such as 0.5/0.5/0.5; raises UserError for anything else."""
    try:
        values = tuple(map(float, text.split("/")))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(abs(value) < 10 for value in values):
        raise UserError(f"{text}: expected three numbers, for red, green and blue: 0.5/0.5/0.5")
    return values
