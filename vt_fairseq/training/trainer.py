"""fairseq's trainer, as the task ``video_translate`` has it."""

import logging
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from fairseq import utils
from fairseq.trainer import Trainer
from torch import Tensor, nn

from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.models.architectures import refuse_other_model
from vt_fairseq.models.checkpoint_state import optimizer_history
from vt_fairseq.models.pretrained.exported import read_model
from vt_fairseq.training import checkpoints, failures, signals, start
from vt_fairseq.training.changed_options import warn_of_changes
from vt_fairseq.training.compilation import compilation
from vt_fairseq.training.data_wait import DataWait
from vt_fairseq.training.ema import SharedWeightsEMA, average_in_fp32
from vt_fairseq.training.half_precision_state import half_precision_state, restore_half_precision
from vt_fairseq.training.lr_scale import refuse_merged_parameters, scale_learning_rates
from vt_fairseq.training.unrounded_weights import (
    begin_at,
    keeps_fp32_weights,
    saved_weights,
    trained_weights,
    unrounded,
)
from vt_fairseq.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def refuse_fp16_on_a_cpu(cfg: Any, device: torch.device) -> None:
    """Raise UserError: at an overflow fairseq calls ``.cuda()``."""
    if cfg.common.fp16 and device.type == "cpu":
        raise UserError("--fp16 needs a GPU: leave it out on a CPU, or take --bf16")


class VideoTranslateTrainer(Trainer):
    """fairseq's trainer on one or more processes, whose checkpoints and failures are ours.

    Attributes:
        sharded: whether a DeepSpeed engine has the optimizer, in shards.
        epoch_iterator: the iterator over the training set, whose place is saved.
        boundary: where this run was interrupted, or the one before and that is not yet made up for.
        new_video_network: whether the video network's weights are random.
        is_done: whether the last update is behind it, and saved as the options have it.
    """

    sharded = False
    latest: ClassVar["VideoTranslateTrainer | None"] = None  # of the training that runs
    _dummy_batch: Any
    _ema: Any

    def __init__(self, cfg, task, model, criterion, quantizer=None):
        # Kept until the optimizer is made: in half precision the model's will be rounded.
        self._exact_weights = trained_weights(model) if keeps_fp32_weights(cfg) else {}
        average_in_fp32(cfg)
        super().__init__(cfg, task, model, criterion, quantizer)
        VideoTranslateTrainer.latest = self
        self.epoch_iterator: Any = None
        self.boundary: signals.Boundary | None = None
        self.new_video_network = True  # until weights are loaded
        self.is_done = False
        self._described = False
        self._is_saving = False
        # Otherwise rank 0 sends the others a pickle that weights_only=True rightly refuses.
        cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
        self.compilation = compilation(cfg, self.device, self.get_model(), self.get_criterion())
        self.watchdog = Watchdog()
        self.data_wait = DataWait(cfg.dataset.num_workers)
        checkpoints.choose(self)
        signals.watch(self)

    def _build_optimizer(self) -> None:
        trained = (p for p in self._model.parameters() if p.requires_grad)
        refuse_merged_parameters(self.cfg, trained)
        refuse_fp16_on_a_cpu(self.cfg, self.device)
        exact = self._take_exact_weights()
        super()._build_optimizer()
        begin_at(self._optimizer, exact)
        scale_learning_rates(self._optimizer)

    def _take_exact_weights(self) -> dict[nn.Parameter, Tensor]:
        """Where the optimizer's fp32 weights begin; once."""
        weights, self._exact_weights = self._exact_weights, {}
        return unrounded(self._model, weights)

    def get_train_iterator(self, *args, **kwargs):
        """Calls fairseq's method, and also keeps the iterator."""
        self.epoch_iterator = super().get_train_iterator(*args, **kwargs)
        return self.epoch_iterator

    def _build_ema(self) -> None:
        if self.cfg.ema.store_ema:
            self._ema = SharedWeightsEMA(self._model, self.cfg.ema, self.device)

    # Updates

    def begin_epoch(self, epoch: int) -> None:
        """Calls fairseq's method; the end of the last epoch is one that is validated and saved."""
        checkpoints.keep_last_epoch(self.cfg, epoch)
        super().begin_epoch(epoch)

    def _prepare_sample(self, sample, is_dummy: bool = False):
        """Calls fairseq's method, also where the first sample after a restart fills up an epoch.

        fairseq then computes the first real sample again, without its gradient; here one is read.
        """
        if not sample and self._dummy_batch == "DUMMY":
            dataset, batches = self.epoch_iterator.dataset, self.epoch_iterator.frozen_batches
            samples = dataset.collater([dataset[batches[0][0]]])
            self._dummy_batch = (
                next(filter(None, samples)) if isinstance(samples, list) else samples
            )
        prepared, is_empty = super()._prepare_sample(sample, is_dummy)
        self.compilation.fix_sizes(prepared)
        return prepared, is_empty

    def train_step(self, samples, raise_oom: bool = False):
        """Calls fairseq's method; raises RunFailure on all processes if the run cannot go on."""
        self.watchdog.note(f"in update {self.get_num_updates() + 1}")
        try:
            began = time.perf_counter()
            result = self.compilation.update(lambda: self._update(samples))
            if self.epoch_iterator is not None:
                self.data_wait.note(self.epoch_iterator.take_waited(), time.perf_counter() - began)
            self.watchdog.note(f"after update {self.get_num_updates()}")
            return result
        except (FloatingPointError, RuntimeError) as error:
            line = failures.one_line(self, samples, error)
            if line is None:
                raise
            raise RunFailure(line) from error

    def _update(self, samples):
        # What fills up an epoch comes first: where it is last, fairseq takes this process's whole
        # update for filling, with a sample size of 0 for the gradients of the others.
        return super().train_step(sorted(samples, key=bool), raise_oom=True)

    def cumulative_training_time(self) -> float:
        """Calls fairseq's method, unless a signal ends the run.

        fairseq asks for this time first after every update.
        """
        if not self._is_saving:
            signals.end_if_received(self)
        return super().cumulative_training_time()

    def valid_step(self, *args, **kwargs):
        """Calls fairseq's method, unless a signal ends the run.

        A validation may take longer than a cluster waits.
        """
        self.watchdog.note(f"validating after update {self.get_num_updates()}")
        signals.end_if_received(self)
        with self.compilation.paused():
            return super().valid_step(*args, **kwargs)

    def lr_step(self, epoch: int, val_loss: float | None = None) -> float:
        """Calls fairseq's method, the first that it calls once a checkpoint is loaded."""
        if self.boundary is not None:
            signals.finish_boundary(self)
        if not self._described and self.epoch_iterator is not None:  # loading calls this, too
            self._described = True
            start.describe(self, self.new_video_network)
        return super().lr_step(epoch, val_loss)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Calls fairseq's method, and also saves what half precision needs to go on exactly."""
        self._is_saving = True  # the training time is asked for, too, on one process alone
        try:
            state = super().state_dict()
        finally:
            self._is_saving = False
        if "last_optimizer_state" in state:
            state["last_optimizer_state"] |= half_precision_state(self.optimizer)
        state["extra_state"] |= signals.saved_state(self)
        return state

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        """Writes fairseq's checkpoint, whole or not at all."""
        if not self.should_save_checkpoint_on_current_rank:
            return None
        path = os.path.abspath(filename)
        logger.info("Saving checkpoint to %s", path)
        state = utils.move_to_cpu(self.state_dict())
        state["extra_state"].update(extra_state)
        checkpoints.save_whole(state, filename)
        logger.info("Finished saving checkpoint to %s", path)
        return path

    def load_checkpoint(
        self, filename: str, reset_optimizer: bool = False, *args, **kwargs
    ) -> dict[str, Any] | None:
        """Calls fairseq's method, also to go from its optimizers to DeepSpeed's engine or back.

        Raises UserError where the checkpoint is damaged, or of another model or vocabulary than the
        command's.
        """
        state = read_model(Path(filename)) if os.path.exists(filename) else {}
        with checkpoints.naming_checkpoint(filename, self.cfg.checkpoint):
            self.task.load_state_dict(state.get("task_state") or {})
        if state:
            self.new_video_network = start.has_new_video_network(state)
        self.get_model().heads_start_anew = reset_optimizer
        if state and not reset_optimizer:
            warn_of_changes(filename, state, self.cfg, self.task.state_dict())
        history = {} if reset_optimizer else optimizer_history(state)
        was_sharded = history.get("optimizer_name") == "DeepSpeedOptimizer"
        other_engine = bool(history) and was_sharded != self.sharded
        if history and not other_engine and state.get("last_optimizer_state") is not None:
            self._exact_weights = {}  # that has them
        elif state and self._exact_weights:
            self._exact_weights |= saved_weights(state)
        if os.path.isdir(filename):
            self.model.load_state_dict(state["model"], strict=True, model_cfg=self.cfg.model)
            logger.info("loaded the weights of %s", filename)
            return None
        try:
            extra_state = super().load_checkpoint(
                filename, reset_optimizer or other_engine, *args, **kwargs
            )
        except Exception as error:
            with checkpoints.naming_checkpoint(filename, self.cfg.checkpoint):
                if "ensure that the architectures match" in str(error):
                    refuse_other_model(filename, state["cfg"]["model"], self.cfg.model)
                if isinstance(error.__context__, UserError):  # the model's own reason
                    raise error.__context__ from None
                checkpoints.refuse_other_optimizer(filename, error)
            raise
        if other_engine:
            self.lr_scheduler.load_state_dict(history["lr_scheduler_state"])
            self.set_num_updates(history["num_updates"])
            logger.warning(
                "%s was saved %s DeepSpeed: weights, update count and learning rate go on, Adam's "
                "moments and the loss scale start anew",
                *(filename, "with" if was_sharded else "without"),
            )
        elif history:
            restore_half_precision(self.optimizer, state.get("last_optimizer_state") or {})
        anew = reset_optimizer or self.cfg.checkpoint.reset_meters
        if extra_state and not (anew or self.cfg.checkpoint.reset_dataloader):
            signals.restore_state(self, extra_state)
        return extra_state
