"""Kernels that torch.compile makes of an update's forward and backward pass, counted on a CPU.

    python benchmarks/compiled_kernels.py [--only fp16]

The model (narrow_model.py) has t5-large's and R(2+1)D-34's layers and takes the ways that it takes
on a GPU. Inductor plans it for a CPU: what it fuses is one kernel, what it leaves to a library
(products, convolutions, attention) is one, or two where CUDA needs two. C++ compilers see nothing
of it and nothing of it runs. The loss is compiled, the optimizer is not.
Prints a line for each precision; writes results/compiled_kernels.json.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import measuring
import torch

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from gpu.training import build, made_up
    from narrow_model import (
        ALIKE,
        FULL_DEPTH,
        PRECISIONS,
        SEVERAL,
        child,
        take_a_gpus_ways,
        write_data,
    )


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

    take_a_gpus_ways()
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
    parser.add_argument("--only", choices=PRECISIONS, action="append", help="of the settings")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        name, folder = args.child
        print("RESULT " + json.dumps(count(PRECISIONS[name], folder)))
        return 0
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder)
        for name in args.only or PRECISIONS:
            found[name] = child(__file__, name, folder)
            print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in found[name].items()), flush=True)
    return measuring.write_result("compiled_kernels", measuring.machine("ve-fairseq"), found)


if __name__ == "__main__":
    sys.exit(main())
