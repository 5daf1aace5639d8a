"""fairseq's trainer with a DeepSpeed engine in it.

Training step, validation, logging, saving and loading are fairseq's; here is only what an engine
does otherwise.
"""

import contextlib
import importlib
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from fairseq import optim
from fairseq.distributed.module_proxy_wrapper import ModuleProxyWrapper
from fairseq.optim import lr_scheduler
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

from vt_fairseq.errors import UserError
from vt_fairseq.training.lr_scale import follow_scales, scale_learning_rates
from vt_fairseq.training.trainer import VideoTranslateTrainer, refuse_fp16_on_a_cpu
from vt_fairseq.training.zero.config import (
    engine_config,
    scale_window,
    step_in_parts,
    zero_stage,
)
from vt_fairseq.training.zero.optimizer import DeepSpeedOptimizer, begin_at
from vt_fairseq.training.zero.shards import OptimizerShards

logger = logging.getLogger(__name__)


class EngineModel(ModuleProxyWrapper):
    """The engine where fairseq expects the model: calls go to it, state dicts to the model."""

    def no_sync(self):
        """Nothing to do: the engine is told of each backward pass whether it is the last."""
        return contextlib.nullcontext()


class DeepSpeedTrainer(VideoTranslateTrainer):
    """Our trainer over a ZeRO engine of stage 1, 2 or 3."""

    sharded = True
    _wrapped_model: Any

    def __init__(self, cfg, task, model, criterion, quantizer=None):
        self.engine: Any = None
        self.stage = zero_stage(cfg)
        self._in_train_step = False
        self._whole_weights: dict[str, torch.Tensor] | None = None
        self._shards = OptimizerShards(self.stage)
        refuse_unsupported(cfg, self.stage, quantizer)
        super().__init__(cfg, task, model, criterion, quantizer)

    @property
    def use_distributed_wrapper(self) -> bool:
        """No DistributedDataParallel: the engine reduces."""
        return False

    @property
    def model(self):
        """The engine once it exists; before, the bare model, into which weights are loaded."""
        if self.engine is None:
            return self._model
        if self._wrapped_model is None:
            self._wrapped_model = EngineModel(self.engine)
        return self._wrapped_model

    def _build_optimizer(self) -> None:
        if self.engine is not None:
            raise RuntimeError("the engine was built before the checkpoint was loaded")
        cfg = self.cfg
        if self.device.type == "cpu":  # DeepSpeed would look for a GPU itself
            os.environ["DS_ACCELERATOR"] = "cpu"
        deepspeed = imported_deepspeed()
        if not deepspeed.get_accelerator().is_fp16_supported():
            refuse_fp16_on_a_cpu(cfg, self.device)
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        adam = optim.build_optimizer(cfg.optimizer, parameters)
        scale_learning_rates(adam)
        join_process_group(cfg, self.device)
        config = engine_config(cfg, self.data_parallel_world_size)
        exact = self._take_exact_weights()
        if self._shards.in_parts:
            step_in_parts(adam.optimizer, config, self.data_parallel_world_size)
        self.engine, _, _, _ = deepspeed.initialize(
            model=self._model,
            optimizer=adam.optimizer,
            config=config,
            dist_init_required=False,
        )
        begin_at(exact)
        self._optimizer = DeepSpeedOptimizer(
            cfg.optimizer, self.engine, build_scaler(cfg), self._shards
        )
        follow_scales(self._optimizer)
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(cfg.lr_scheduler, self._optimizer)
        self._lr_scheduler.step_update(0)

    def train_step(self, samples, raise_oom=False):
        """One update. Out of memory ends the run: one process cannot leave a batch out alone."""
        self._in_train_step = True
        result = super().train_step(samples, raise_oom=True)
        self._in_train_step = False
        return result

    def _update(self, samples):
        self.optimizer.begin_update(len(samples))  # also where it is made anew without the compiler
        return super()._update(samples)

    def consolidate_optimizer(self) -> None:
        """Called by fairseq on all processes before it saves: everything that needs them all."""
        if self._in_train_step:
            # An exception in this process: the others would never join.
            return
        if not self.cfg.checkpoint.no_save_optimizer_state:
            self._shards.save(
                self.engine, Path(self.cfg.checkpoint.save_dir), self.get_num_updates()
            )
        if self.stage == 3:
            self._whole_weights = self.engine._zero3_consolidated_16bit_state_dict()

    def state_dict(self) -> dict[str, Any]:
        """fairseq's checkpoint, with whole weights whatever the stage."""
        self._gathered_optim_state = None
        state = super().state_dict()
        if self.stage == 3:
            state["model"], self._whole_weights = self._whole_weights, None
        return state

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        """fairseq's; not in the middle of an update, where one process has only its own part."""
        if self._in_train_step:
            logger.error("%s is not written: the last saved checkpoint is whole", filename)
            return None
        return super().save_checkpoint(filename, extra_state)

    def load_checkpoint(
        self, filename: str, reset_optimizer: bool = False, *args, **kwargs
    ) -> dict[str, Any] | None:
        """fairseq's; the shards are looked for beside the file."""
        self._shards.prepare(Path(filename), reset_optimizer)
        return super().load_checkpoint(filename, reset_optimizer, *args, **kwargs)


def imported_deepspeed() -> ModuleType:
    """DeepSpeed, imported when it is needed, which takes seconds; UserError where it is not."""
    try:
        deepspeed = importlib.import_module("deepspeed")
    except ImportError as error:
        raise UserError(
            f"--optimizer deepspeed_adam: {error}: pip install deepspeed, or train without its "
            "engine: --optimizer adam"
        ) from error
    # Marks for a profiler around thousands of calls per update, which cost ZeRO-3 a sixth of its
    # time in Python.
    deepspeed.utils.nvtx.enable_nvtx = False
    return deepspeed


def refuse_unsupported(cfg, stage: int, quantizer) -> None:
    """Raise UserError for options that an engine cannot honor."""
    distributed = cfg.distributed_training
    reasons = {
        "quantization": quantizer is not None,
        "--tpu": cfg.common.tpu,
        "--amp": cfg.common.amp,
        "--memory-efficient-fp16": cfg.common.memory_efficient_fp16,
        "--memory-efficient-bf16": cfg.common.memory_efficient_bf16,
        "--pipeline-model-parallel": distributed.pipeline_model_parallel,
        "--use-bmuf": cfg.optimization.use_bmuf,
        "--zero-sharding": distributed.zero_sharding != "none",
        "--ddp-backend fully_sharded": distributed.ddp_backend == "fully_sharded",
        "--ddp-backend slowmo": distributed.ddp_backend == "slowmo",
        # A .pt that is not there yet cannot say which shards it needs.
        "--write-checkpoints-asynchronously": cfg.checkpoint.write_checkpoints_asynchronously,
    }
    unsupported = [option for option, used in reasons.items() if used]
    if unsupported:
        raise UserError(
            f"--zero-stage {stage} does not go with {', '.join(unsupported)}; leave it out"
        )
    if stage == 3 and cfg.ema.store_ema:
        raise UserError(
            "--zero-stage 3 does not go with --store-ema, which would save empty tensors; use "
            "--zero-stage 2"
        )
    if stage == 3 and "eval_bleu" in cfg.task and cfg.task.eval_bleu:
        raise UserError(
            "--zero-stage 3 does not go with --eval-bleu: processes that generate texts of "
            "different lengths would wait for each other forever; use --zero-stage 2, or generate "
            "from the saved checkpoint"
        )


def build_scaler(cfg) -> DynamicLossScaler | None:
    """fairseq's dynamic loss scaler with fairseq's options; None without ``--fp16``."""
    if not cfg.common.fp16:
        return None
    return DynamicLossScaler(
        init_scale=cfg.common.fp16_init_scale,
        scale_window=scale_window(cfg),
        tolerance=cfg.common.fp16_scale_tolerance,
        threshold=cfg.common.threshold_loss_scale,
        min_loss_scale=cfg.common.min_loss_scale,
    )


def join_process_group(cfg, device: torch.device) -> None:
    """Tell DeepSpeed of fairseq's process group; make one for a process that runs alone."""
    deepspeed = imported_deepspeed()
    os.environ["LOCAL_RANK"] = str(cfg.distributed_training.device_id)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), world_size=1, rank=0)
    compile_nothing_for_messages()
    deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)


def compile_nothing_for_messages() -> None:
    """Keep DeepSpeed from compiling a reduction over shared memory on CPUs.

    Only its inference calls it, and without a compiler it would end the run.
    """
    operations = vars(importlib.import_module("deepspeed.ops")).setdefault("__compatible_ops__", {})
    operations["deepspeed_shm_comm"] = False
