"""fairseq's moving average of the weights (``--store-ema``), for our models.

fairseq averages in place and by the names of a state dict: a tensor with two names, as the table of
encoder and decoder, would move twice at each update. Of 16-bit weights it would keep a 16-bit
average, in which a step of one in ten thousand is rounded away.
"""

import logging
from typing import Any

import torch
from fairseq.models.ema import EMA
from torch import nn

logger = logging.getLogger(__name__)


def average_in_fp32(cfg: Any) -> None:
    """Have an average of 16-bit weights kept in fp32; ``cfg`` is fairseq's whole configuration."""
    half = cfg.common.fp16 or cfg.common.bf16
    if cfg.ema.store_ema and half and not cfg.ema.ema_fp32:
        cfg.ema.ema_fp32 = True
        logger.info("--ema-fp32: in 16 bits the average would not follow the weights")


class SharedWeightsEMA(EMA):
    """fairseq's, in which every tensor moves once, and counters are taken over."""

    def __init__(self, model: nn.Module, cfg: Any, device: torch.device):
        values = model.state_dict().items()
        counters = {name for name, value in values if not value.is_floating_point()}
        super().__init__(model, cfg, device, skip_keys=counters)

    def build_fp32_params(self, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Calls fairseq's method; what shares memory in the model does so in fp32."""
        super().build_fp32_params(state_dict)
        for name, first in first_names(self.model.state_dict()).items():
            self.fp32_params[name] = self.fp32_params[first]

    def step(self, new_model: nn.Module, updates: int) -> None:
        """Calls fairseq's method, with ``--ema-update-freq`` at the same updates after a restart.

        Args:
            new_model: after its update.
            updates: that it has behind it.
        """
        self.update_freq_counter = (updates - 1) % max(1, self.config.ema_update_freq)
        super().step(new_model, updates)

    def _step_internal(self, new_model: nn.Module, updates: int | None = None) -> None:
        super()._step_internal(OnceNamed(new_model), updates)


class OnceNamed:
    """A model whose state dict has every tensor by its first name alone."""

    def __init__(self, model: nn.Module):
        self.model = model

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Those of the model that no name before has."""
        state = self.model.state_dict()
        return {name: state[name] for name, first in first_names(state).items() if name == first}


def first_names(state: dict[str, torch.Tensor]) -> dict[str, str]:
    """For each name the first of the same tensor, often itself."""
    first: dict[int, str] = {}
    return {name: first.setdefault(tensor.data_ptr(), name) for name, tensor in state.items()}
