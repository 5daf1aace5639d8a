"""``--compile`` and ``--cuda-graphs``: training runs what torch.compile makes of the model.

The compiler fuses the small operations between products and convolutions, and Python no longer
launches them one by one. Validation, generation and scoring are not compiled: they see more shapes
and less of them.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.task_config import COMPILED_LENGTHS, NOT_COMPILED
from vt_fairseq.training.zero.config import zero_stage

logger = logging.getLogger(__name__)

# Graphs of one function (torch's default: 8). One is made anew for a batch of other sizes, then one
# for any sizes; with CUDA graphs, for which sizes are fixed, one for each pair of lengths.
MOST_GRAPHS = 64
Result = TypeVar("Result")


class Compilation:
    """What of a training is compiled, and for how long that works.

    Args:
        model: the bare one, which is compiled in place: its parameters keep their names, and so do
            checkpoints.
        criterion: whose ``token_loss`` is compiled, too, if it has one.
        how: "none", "model" or "blocks".
        cuda_graphs: whether a GPU replays each pass as one launch.
    """

    def __init__(self, model: nn.Module, criterion: Any, how: str, cuda_graphs: bool):
        self.active = how != NOT_COMPILED
        self._graphs = 0
        if not self.active:
            return
        options = {"triton.cudagraphs": True} if cuda_graphs else None
        # None: from the second length of texts on, any length goes.
        any_length = False if cuda_graphs else None
        parts = [(model, any_length)] if how == "model" else blocks(model, any_length)
        for module, dynamic in parts:
            module.compile(fullgraph=True, dynamic=dynamic, options=options)
        if hasattr(criterion, "token_loss"):
            # Not as a CUDA graph, whose next run would overwrite a loss that is yet to be logged.
            criterion.token_loss = torch.compile(criterion.token_loss, fullgraph=True, dynamic=True)
        lengths = f"texts are padded to multiples of {COMPILED_LENGTHS}"
        logger.info("--compile %s: the first updates take minutes; %s", how, lengths)

    def fix_sizes(self, sample: dict[str, Any]) -> None:
        """Have a batch of another number of rows compiled for itself.

        Inductor cannot make convolutions of any number of clips.
        """
        if not self.active or not sample:
            return
        for name, tensor in sample["net_input"].items():
            if isinstance(tensor, torch.Tensor):
                every = range(tensor.dim()) if name in ("video", "blank_video") else [0]
                torch._dynamo.mark_static(tensor, list(every))

    def update(self, run: Callable[[], Result]) -> Result:
        """``run()``; anew without the compiler where that fails, which the log says with why."""
        if not self.active:
            return run()
        try:
            # Only newer releases of torch.compile take it as an option.
            with dynamo_config().patch(recompile_limit=MOST_GRAPHS):
                result = run()
        except torch._dynamo.exc.TorchDynamoException as error:
            self.active = False
            torch.compiler.set_stance("force_eager")
            reason = " ".join(str(error).split())
            logger.warning("trains without --compile, which failed here: %.500s", reason)
            return run()
        if (graphs := number_of_graphs()) != self._graphs:
            self._graphs = graphs
            logger.info("--compile: %d graphs so far", graphs)
        return result

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A while in which all runs as without ``--compile``."""
        if not self.active:
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield


def compilation(cfg: Any, device: torch.device, model: nn.Module, criterion: Any) -> Compilation:
    """That of the options; raises UserError for those that do not go together."""
    how, cuda_graphs = str(cfg.task.compile), cfg.task.cuda_graphs
    if cuda_graphs and (how != "model" or device.type == "cpu"):
        raise UserError("--cuda-graphs needs a GPU and --compile model")
    if how != NOT_COMPILED and zero_stage(cfg) == 3:
        raise UserError(
            f"--compile {how} does not go with --zero-stage 3, whose parameters come and go: take "
            "--zero-stage 1 or 2"
        )
    return Compilation(model, criterion, how, cuda_graphs)


def blocks(model: nn.Module, any_length: bool | None) -> Iterator[tuple[nn.Module, bool | None]]:
    """The layers of the transformer and the parts of the video network, to be compiled one by one.

    With each whether its sizes may vary. Alike ones share a graph. What the backward pass computes
    again in the video network stays as it is: its BatchNorms have to know which pass it is.
    """
    if not isinstance(model, VideoTranslateModel):
        raise UserError("--compile blocks needs a model of this package: take --compile model")
    for layers in (model.encoder.transformer.layers, model.decoder.layers):
        yield from ((layer, any_length) for layer in layers)
    network = model.encoder.video.network
    recomputed = getattr(network, "checkpoint_video_stages", 0)
    for name, part in network.named_children():
        stage = int(name.removeprefix("layer")) if name.startswith("layer") else None
        if stage is not None and stage > recomputed:
            yield from ((block, False) for block in part.children())


def number_of_graphs() -> int:
    """That the compiler has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def dynamo_config() -> Any:
    """Settings of the compiler, which is imported when it is needed."""
    import torch._dynamo.config

    return torch._dynamo.config
