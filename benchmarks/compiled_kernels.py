"""Kernels that torch.compile makes of an update's forward and backward pass, counted on a CPU.

    python benchmarks/compiled_kernels.py [--only fp16]

The model is that of update_counts.py, with t5-large's and R(2+1)D-34's layers, and takes the ways
that it takes on a GPU. Inductor plans it for a CPU: what it fuses is one kernel, what it leaves to
a library (products, convolutions, attention) is one, or two where CUDA needs two. C++ compilers
see nothing of it and nothing of it runs. The loss is compiled, the optimizer is not.
Prints a line for each precision; writes results/compiled_kernels.json.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import measuring
import torch
import torch.nn.functional as F
from update_counts import ALIKE, FULL_DEPTH, KERNELS, SEVERAL, attention, write_data

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from gpu.training import build, made_up

    from vt_fairseq.models import half_precision_linear, r2plus1d
    from vt_fairseq.models.r2plus1d import R2Plus1D, R2Plus1DDims
    from vt_fairseq.models.video_backbones import register_video_network
    from vt_fairseq.training import trainer as our_trainer

SETTINGS = {
    "fp32": [],
    "bf16": ["--bf16"],
    "fp16": ["--fp16", "--fp16-no-flatten-grads"],
}
SETTINGS["fp16, all recomputed"] = [
    *[*SETTINGS["fp16"], "--checkpoint-video-stages", "4", "--checkpoint-activations"]
]


class Planned(Exception):
    """Both passes are compiled, and nothing is to run."""


def launches(nodes: list[Any]) -> Counter[str]:
    """Kernels that a GPU launches for the nodes of Inductor's plan.

    What copies the parts of a concatenation is one, as Inductor has it on a GPU.
    """
    from torch._inductor.ir import MultiOutput, NonOwningLayout
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    found: Counter[str] = Counter()
    concatenations: set[str] = set()
    for node in nodes:
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
            continue
        if isinstance(node, ExternKernelSchedulerNode):
            operation = getattr(node.node, "op_overload", None)
            parts = str(operation or node.node.python_kernel_name).split("::")[-1].split(".")
            name = next(part for part in reversed(parts) if part not in ("default", "out"))
            found[name] += SEVERAL.get(name, 1)
            continue
        layouts = [part.node.layout for part in node.get_nodes()]
        if all(isinstance(layout, NonOwningLayout) for layout in layouts):
            concatenations |= {layout.view.get_name() for layout in layouts}
        else:
            found["fused"] += 1
    return found + Counter({"concatenation": len(concatenations)})


def count(options: list[str], folder: str) -> dict[str, Any]:
    """Kernels of the passes, and the graphs that they were made of."""
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.output_code import CompiledFxGraph
    from torch._inductor.scheduler import Scheduler

    F.scaled_dot_product_attention = attention
    half_precision_linear.fp32_product = KERNELS.fp32_product
    half_precision_linear.on_cpu = lambda x: False
    r2plus1d.on_tensor_cores = lambda x: x.dtype in (torch.float16, torch.bfloat16)
    half = R2Plus1DDims(
        blocks=(3, 4, 6, 3), per_conv_midplanes=True, bn_eps=1e-3, widths=(32, 64, 128, 256)
    )
    register_video_network("half_34")(functools.partial(R2Plus1D, half))
    plans: list[Counter[str]] = []
    codegen = Scheduler.codegen

    def noted(scheduler: Any) -> Any:
        plans.append(launches(scheduler.nodes))
        return codegen(scheduler)

    def planned(*_) -> None:
        raise Planned

    Scheduler.codegen = noted
    CompiledFxGraph.__call__ = planned
    torch._functorch.config.force_non_lazy_backward_lowering = True
    torch._inductor.config.force_disable_caches = True
    AsyncCompile.cpp_pybinding = lambda *_: lambda *_: None
    our_trainer.refuse_fp16_on_a_cpu = lambda *_: None
    trainer, task = build(f"{folder}/data", [*FULL_DEPTH, *ALIKE, *options], folder)
    trainer.begin_epoch(1)
    batch, _ = trainer._prepare_sample(made_up(trainer, task, 48, 32))
    model, token_loss = trainer.model.train(), trainer.criterion.token_loss
    compiled = torch.compile(
        lambda given, target: token_loss(model(**given)[0], target, "sum"), fullgraph=True
    )
    began = time.perf_counter()
    with contextlib.suppress(Planned):
        compiled(batch["net_input"], batch["target"])
    every = sum(plans, Counter())
    forward, backward = plans
    return {
        "kernels": every.total(),
        "forward": forward.total(),
        "backward": backward.total(),
        "by kind": dict(every.most_common()),
        "seconds to compile, without C++ or Triton": round(time.perf_counter() - began),
    }


def main() -> int:
    """Count in a process for each setting, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SETTINGS, action="append", help="of the settings")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        name, folder = args.child
        print("RESULT " + json.dumps(count(SETTINGS[name], folder)))
        return 0
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder)
        for name in args.only or SETTINGS:
            environment = {**os.environ, "PYTHONPATH": str(measuring.ROOT), "DS_ACCELERATOR": "cpu"}
            command = [sys.executable, __file__, "--child", name, folder]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            results = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
            if done.returncode or not results:
                raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr[-3000:]}")
            found[name] = json.loads(results[-1].removeprefix("RESULT "))
            print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in found[name].items()), flush=True)
    return measuring.write_result("compiled_kernels", measuring.machine("ve-fairseq"), found)


if __name__ == "__main__":
    sys.exit(main())
