"""The video network on a CPU: layout, dtype, folded BatchNorm, and recomputed stages.

    python benchmarks/video_network.py [--rounds 5] [--frames 8] [--size 80]

R(2+1)D-34 with random weights on one clip; CPU time, one thread, in turn. What is compared gives
equal features and gradients, which is checked first. ``ours`` is what the product does: clips as
channels_last_3d (``Normalize``), and in evaluation folded. bf16 is held to its bar where the
processor has instructions for it. Writes results/video_network.json.
"""

import argparse
import sys
from copy import deepcopy
from functools import partial

import measuring
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, VIDEO_STAGES, Normalize, R2Plus1D

NOISE = 1.05  # ours relative to the best layout
BF16 = 4.0  # fp32 contiguous relative to bf16 channels last, folded
RECOMPUTED = {1: 1.06, VIDEO_STAGES: 1.3}  # stages: most time relative to none
SMALL = 32  # frames' side where only equality matters, or bf16 is emulated
OURS = "folded, channels last"


def inference(clip: torch.Tensor, dtype: torch.dtype) -> dict:
    """Name of each layout and form to a function that gives (1, T, C) features."""
    torch.manual_seed(0)
    plain = R2Plus1D(R2PLUS1D_DIMS["34"])
    with torch.no_grad():
        plain(Normalize()(random_clip(8, SMALL), torch.float32))  # moves the BatchNorms' statistics
    folded = deepcopy(plain.eval())
    folded.fold()
    video = Normalize()(clip, dtype)
    found = {}
    for form, network in (("plain", plain), ("folded", folded)):
        network.to(dtype)
        found[f"{form}, contiguous"] = partial(network, video.contiguous())
        found[f"{form}, channels last"] = partial(network, video)
    return found


def training_pass(network: nn.Module, video: torch.Tensor, stages: int) -> None:
    """Forward and backward with ``stages`` stages recomputed."""
    network.checkpoint_video_stages = stages
    network.zero_grad(set_to_none=True)
    network(video).float().square().mean().backward()


def training(clip: torch.Tensor, dtype: torch.dtype) -> dict:
    """Name of each way to a function that trains once."""
    torch.manual_seed(0)
    network = R2Plus1D(R2PLUS1D_DIMS["34"]).to(dtype)
    video = Normalize()(clip, dtype)
    return {
        "ours": partial(training_pass, network, video, 0),
        "contiguous": partial(training_pass, network, video.contiguous(), 0),
        **{str(n): partial(training_pass, network, video, n) for n in RECOMPUTED},
    }


def check_equality(clip: torch.Tensor) -> None:
    """End the script where layouts, folding or recomputation change features or gradients."""
    with torch.inference_mode():
        features = {name: way() for name, way in inference(clip, torch.float32).items()}
    for name, found in features.items():
        torch.testing.assert_close(found, features[OURS], rtol=1e-4, atol=1e-4, msg=name)
    gradients = []
    # fp64: what fp32 rounds away grows on the way back to the first layer's gradients.
    for way in training(clip, torch.float64).values():
        way()
        gradients.append(way.args[0].stem[0].weight.grad.clone())
    for found in gradients[1:]:
        error = (found - gradients[0]).norm() / gradients[0].norm()
        if not error < 1e-6:
            raise SystemExit(f"gradients differ by {error:.1e} of their size, expected under 1e-6")


def costs(stages: int) -> dict[str, float]:
    """GFLOP of a training pass on 32 x 112 x 112, and GB that it keeps for backward in fp16."""
    with torch.device("meta"):
        network = R2Plus1D(R2PLUS1D_DIMS["34"]).half().train()
        video = torch.empty(1, 3, 32, 112, 112, dtype=torch.float16)
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter:
        network.checkpoint_video_stages = stages
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            features = network(video.contiguous(memory_format=torch.channels_last_3d))
        features.float().mean().backward()
    size = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    return {"gflop": round(counter.get_total_flops() / 1e9, 1), "gb": round(size / 1e9, 3)}


def measure_inference(args: argparse.Namespace) -> dict[str, dict]:
    """Layouts and forms in fp32, and bf16 as far as the processor can."""
    clip = random_clip(args.frames, args.size)
    ways = inference(clip, torch.float32)
    capabilities = torch.cpu.get_capabilities()
    fast_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    if fast_bf16:
        ways["bf16"] = in_bf16 = inference(clip, torch.bfloat16)[OURS]
    spent = measuring.in_turn(ways, args.rounds)
    halves = spent.pop("bf16", None)
    best = min(spent, key=lambda name: sorted(spent[name])[args.rounds // 2])
    found = measuring.ratio(spent[OURS], spent[best])
    measured = {
        "fp32 evaluation: ours against the best layout": measuring.judged(found, at_most=NOISE)
        | {"best": best}
    }
    for name in spent:
        if name != OURS:
            measured[f"fp32 evaluation: {name} against ours"] = measuring.ratio(
                spent[name], spent[OURS]
            )
    plain = spent["plain, contiguous"]
    name = "bf16 evaluation: fp32 plain contiguous against ours"
    if halves:
        measured[name] = measuring.judged(measuring.ratio(plain, halves), at_least=BF16) | {
            f"percent of ours in {operation}": measuring.percent_in([operation], in_bf16)
            for operation in ("aten::mkldnn_convolution", "aten::copy_")
        }
    else:
        why = "the processor has neither AVX512_BF16 nor AMX"
        print(f"{name:56} not judged: {why}")
        small = random_clip(args.frames, SMALL)
        halves = measuring.in_turn(
            {
                str(dtype): inference(small, dtype)[OURS]
                for dtype in (torch.float32, torch.bfloat16)
            },
            rounds=3,
        )
        measured[name] = {"bar": f"at least {BF16}", "not judged": why}
        measured["bf16 evaluation, emulated: ours against fp32"] = measuring.ratio(
            halves["torch.bfloat16"], halves["torch.float32"]
        )
    return measured


def measure_training(args: argparse.Namespace) -> dict[str, dict]:
    """Layouts, and what recomputing stages costs and saves."""
    spent = measuring.in_turn(
        training(random_clip(args.frames, args.size), torch.float32), args.rounds
    )
    found = measuring.ratio(spent["ours"], spent["contiguous"])
    measured = {"fp32 training: ours against contiguous": measuring.judged(found, at_most=NOISE)}
    nothing = costs(0)
    for stages, bar in RECOMPUTED.items():
        cost = costs(stages)
        name = "all stages" if stages == VIDEO_STAGES else "first stage"
        found = measuring.judged(measuring.ratio(spent[str(stages)], spent["ours"]), at_most=bar)
        measured[f"fp32 training: {name} recomputed"] = found | {
            "ratio of operations": round(cost["gflop"] / nothing["gflop"], 3),
            "GB kept for backward, 32 x 112 x 112 in fp16": cost["gb"],
            "GB without": nothing["gb"],
        }
    return measured


def random_clip(frames: int, size: int) -> torch.Tensor:
    """(1, frames, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, frames, size, size, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=80)
    args = parser.parse_args()
    torch.set_num_threads(1)
    check_equality(random_clip(8, SMALL))
    with torch.inference_mode():
        measured = measure_inference(args)
    measured |= measure_training(args)
    return measuring.write_result("video_network", measuring.machine(), measured)


if __name__ == "__main__":
    sys.exit(main())
