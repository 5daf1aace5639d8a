"""The optimizer's side of an update against fairseq's own, to the bit."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from fairseq import optim, utils
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.nag import FairseqNAGConfig
from omegaconf import OmegaConf
from torch import nn

from vt_fairseq.training.fp16_optimizer import FP16Optimizer
from vt_fairseq.training.gradient_norm import clip_grad_norm_
from vt_fairseq.training.half_precision_state import WEIGHTS, restore_half_precision
from vt_fairseq.training.lr_scale import scale_learning_rates
from vt_fairseq.training.parts import in_parts
from vt_fairseq.training.zero.adam import DeepSpeedAdamConfig

FairseqFP16Optimizer = optim.fp16_optimizer.FP16Optimizer
ADAMS = {
    "adam": FairseqAdamConfig(_name="adam", lr=[0.01], weight_decay=0.1, tpu=False),
    "deepspeed_adam": DeepSpeedAdamConfig(
        _name="deepspeed_adam", lr=[0.01], weight_decay=0.1, adam_backend="torch"
    ),
    "nag": FairseqNAGConfig(_name="nag", lr=[0.01]),
}
SLOW = {1: 0.1, 5: 0.1}  # indices of parameters and their scales
SHAPES = [(40, 30), (7,), (16, 3, 3, 3), (1,), (300,), (12, 50)]


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    """As of a model; some learn slower than the others."""
    random = torch.Generator().manual_seed(1)
    made = [nn.Parameter(torch.randn(shape, generator=random).to(dtype)) for shape in SHAPES]
    for index, scale in SLOW.items():
        made[index].optim_overrides = {"optimizer": {"lr_scale": scale}}
    return made


def config(adam: str, dtype: torch.dtype) -> SimpleNamespace:
    """Of fairseq, as far as its optimizer reads it."""
    common = {
        "fp16": dtype == torch.float16,
        "bf16": dtype == torch.bfloat16,
        "fp16_no_flatten_grads": True,
        "fp16_scale_window": 8,
        "fp16_init_scale": 4.0,
        "fp16_scale_tolerance": 0.0,
        "threshold_loss_scale": None,
        "min_loss_scale": 1e-4,
    }
    return SimpleNamespace(
        common=SimpleNamespace(**common),
        optimizer=OmegaConf.structured(ADAMS[adam]),
        optimization=SimpleNamespace(debug_param_names=False),
    )


def built(kind: type, adam: str, dtype: torch.dtype = torch.float16):
    optimizer = kind.build_optimizer(config(adam, dtype), weights(dtype))
    scale_learning_rates(optimizer)
    return optimizer


def of_both(adam: str, dtype: torch.dtype = torch.float16) -> list[FairseqFP16Optimizer]:
    """Ours and fairseq's."""
    return [built(kind, adam, dtype) for kind in (FP16Optimizer, FairseqFP16Optimizer)]


def update(optimizer, number: int, clip: float, factor: float | torch.Tensor) -> float | str:
    """One as fairseq's trainer has it; the norm, or what was said of an overflow."""
    optimizer.zero_grad()
    random = torch.Generator().manual_seed(number)
    for parameter in optimizer.fp16_params:
        grad = torch.randn(parameter.shape, generator=random) * 10 ** ((number % 7) - 4)
        parameter.grad = grad.to(parameter.dtype)
        if number % 11 == 5:
            parameter.grad.view(-1)[-1] = float("inf")
    optimizer._needs_sync = True
    optimizer.multiply_grads(factor)
    try:
        norm = optimizer.clip_grad_norm(clip)
    except OverflowError as error:
        optimizer.zero_grad()
        return str(error)
    if not torch.isfinite(norm):
        optimizer.zero_grad()
        return "not finite"
    optimizer.step()
    return norm.item()


def same(ours, theirs) -> bool:
    """Whether all weights are equal to the bit."""
    pairs = [*zip(ours.fp16_params, theirs.fp16_params, strict=True)]
    pairs += zip(ours.fp32_params, theirs.fp32_params, strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("adam", ADAMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("factor", [1 / 3, torch.tensor(1 / 3, dtype=torch.float64)])
def test_after_50_updates_weights_norms_and_loss_scale_are_fairseqs_to_the_bit(
    adam, dtype, clip, factor
):
    """Overflows included; of several processes the sample size is a tensor in fp64."""
    ours, theirs = of_both(adam, dtype)
    for number in range(50):
        ours.set_lr(0.01 / (number + 1))
        theirs.set_lr(0.01 / (number + 1))
        given = factor.clone() if isinstance(factor, torch.Tensor) else factor
        assert update(ours, number, clip, given) == update(theirs, number, clip, given)
    assert same(ours, theirs)
    if dtype == torch.float16:
        assert ours.scaler.loss_scale == theirs.scaler.loss_scale != 4.0
    first = ours.fp32_params[0]
    assert not torch.equal(first, weights(dtype)[0].float())


@pytest.mark.parametrize("first", [FP16Optimizer, FairseqFP16Optimizer])
def test_a_run_goes_on_from_fairseqs_state_and_fairseqs_from_ours(first):
    then = FairseqFP16Optimizer if first is FP16Optimizer else FP16Optimizer
    through = built(FairseqFP16Optimizer, "deepspeed_adam")
    before, after = built(first, "deepspeed_adam"), built(then, "deepspeed_adam")
    for number in range(10):
        update(through, number, 0.5, 1.0)
        update(before, number, 0.5, 1.0)
    hand_over(before, after)
    for number in range(10, 20):
        update(through, number, 0.5, 1.0)
        update(after, number, 0.5, 1.0)
    assert same(after, through)
    assert FP16Optimizer.__name__ == FairseqFP16Optimizer.__name__, "checkpoints compare it"


def hand_over(before, after) -> None:
    """What a checkpoint carries from one optimizer to another."""
    state = deepcopy(before.state_dict())
    merged = isinstance(before.fp32_params, dict)
    copies = list(before.fp32_params.values()) if merged else before.fp32_params
    state[WEIGHTS] = [copy.detach().clone() for copy in copies]
    with torch.no_grad():
        torch._foreach_copy_(after.fp16_params, before.fp16_params)
    after.load_state_dict(state, after.optimizer_config)
    after.set_lr(before.get_lr())
    restore_half_precision(after, state)
    after.scaler.__dict__.update(before.scaler.__dict__)


def test_a_run_in_fp16_goes_on_with_the_fp32_weights_of_one_in_bf16():
    """Its model's weights come from the checkpoint, in which they were rounded to bf16."""
    optimizer = built(FP16Optimizer, "deepspeed_adam")
    exact = [torch.randn_like(copy) for copy in optimizer.fp32_params]
    with torch.no_grad():
        for half, weight in zip(optimizer.fp16_params, exact, strict=True):
            half.copy_(weight.bfloat16())
    restore_half_precision(optimizer, {WEIGHTS: exact})
    assert all(map(torch.equal, optimizer.fp32_params, exact))


def test_a_run_goes_on_whose_parameters_fairseq_had_merged_into_one(monkeypatch):
    """That is ``--fp16`` without ``--fp16-no-flatten-grads``, in earlier versions."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # a CPU's index
    monkeypatch.setattr("tests.test_fp16_optimizer.SLOW", {})
    settings = config("deepspeed_adam", torch.float16)
    settings.common.fp16_no_flatten_grads = False
    merged = FairseqFP16Optimizer.build_optimizer(settings, weights(torch.float16))
    assert len(merged.fp32_params) == 1
    ours, through = of_both("deepspeed_adam")
    for number in range(5):
        update(merged, number, 0.0, 1.0)
        update(through, number, 0.0, 1.0)
    hand_over(merged, ours)
    assert same(ours, through)
    for number in range(5, 10):
        assert update(ours, number, 0.0, 1.0) == update(through, number, 0.0, 1.0)
    assert same(ours, through)


@pytest.mark.parametrize("adam", ADAMS)
def test_a_parameter_that_the_loss_does_not_depend_on_decays_as_with_fairseq(adam):
    both = of_both(adam)
    for optimizer in both:
        for with_gradient in (slice(None), slice(2, None)):
            optimizer.zero_grad()
            for parameter in optimizer.fp16_params[with_gradient]:
                parameter.grad = torch.ones_like(parameter)
            optimizer._needs_sync = True
            optimizer.clip_grad_norm(0.0)
            optimizer.step()
    assert same(*both)


def test_what_overflowed_can_be_looked_at():
    """fairseq does so for ``--debug-param-names``; the next update has no trace of it."""
    optimizer, plain = built(FP16Optimizer, "adam"), built(FP16Optimizer, "adam")
    optimizer.keeps_overflowing = True
    for each in (optimizer, plain):
        assert "loss scale" in str(update(each, 5, 0.5, 1.0))
    optimizer.zero_grad = lambda: None
    update(optimizer, 5, 0.5, 1.0)
    assert all(torch.isinf(copy.grad).any() for copy in optimizer.fp32_params)
    del optimizer.zero_grad
    update(optimizer, 6, 0.5, 1.0)
    plain.scaler.loss_scale = optimizer.scaler.loss_scale
    update(plain, 6, 0.5, 1.0)
    assert same(optimizer, plain)


@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1e9])
def test_gradients_in_fp32_are_clipped_as_fairseq_does(max_norm):
    ours, theirs = weights(torch.float32), weights(torch.float32)
    random = torch.Generator().manual_seed(3)
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(a.shape, generator=random)
        b.grad = a.grad.clone()
    ours[3].grad = theirs[3].grad = None
    assert torch.equal(clip_grad_norm_(ours, max_norm), utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is b.grad is None or torch.equal(a.grad, b.grad)
    assert clip_grad_norm_([nn.Parameter(torch.ones(2))], max_norm) == 0
    ours[0].grad[0] = float("nan")
    assert not torch.isfinite(clip_grad_norm_(ours, max_norm))


def test_memory_of_the_parts_stays_within_that_of_the_first():
    """4 bytes per element that is stepped, and 2 fewer for each that is done."""
    random = torch.Generator().manual_seed(5)
    sizes = torch.randint(1, 100, (700,), generator=random).tolist()
    groups = [[torch.empty(n) for n in sorted(part)] for part in (sizes[:500], sizes[500:])]
    parts = in_parts(groups, 1 / 20, growth=1 / 2)
    assert [p for _, part in parts for p in part] == [p for group in groups for p in group]
    assert all(any(p is q for q in groups[index]) for index, part in parts for p in part)
    done, extra = 0, []
    for _, part in parts:
        size = sum(p.numel() for p in part)
        extra.append(4 * size - 2 * done)
        done += size
    assert done == sum(sizes) and max(extra) <= 0.2 * done
    assert len(parts) <= 8
    assert len(in_parts([[torch.empty(1000), torch.empty(3)]], 0.1)) == 2
    equal = in_parts([[torch.empty(10)] * 10], 1 / 5)
    assert [len(part) for _, part in equal] == [2] * 5


def test_memory_that_several_gradients_share_is_not_counted_on_before_it_is_free():
    """A product of joined weights makes one tensor of all their gradients."""
    halves = [nn.Parameter(torch.ones(50, dtype=torch.float16)) for _ in range(40)]
    optimizer = FP16Optimizer.build_optimizer(config("adam", torch.float16), halves)
    shared = torch.full((10, 50), 0.1, dtype=torch.float16)
    for index, half in enumerate(halves):
        half.grad = shared[index] if index < 10 else torch.full_like(half, 0.1)
    del shared
    held, step = [], optimizer.fp32_optimizer.step

    def measured(*args, **kwargs):
        left = [half.grad.untyped_storage() for half in halves if half.grad is not None]
        held.append(sum({s.data_ptr(): s.nbytes() for s in left}.values()))
        held[-1] += sum(c.grad.nbytes for c in optimizer.fp32_params if c.grad is not None)
        return step(*args, **kwargs)

    optimizer.fp32_optimizer.step = measured
    optimizer.clip_grad_norm(0.0)
    optimizer.step()
    elements = 40 * 50
    assert len(held) > 3 and max(held) <= 2 * elements + 4 * elements / 20
