"""BatchNorm against PyTorch's in fp32, and its statistics in half precision."""

import pytest
import torch
from torch import nn

from vt_fairseq.models.activation_checkpointing import checkpointed
from vt_fairseq.models.batch_norm import BatchNorm
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D

HALVES = [torch.float16, torch.bfloat16]


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + 2


@pytest.mark.parametrize(
    ("theirs", "shape"), [(nn.BatchNorm3d, (4, 6, 3, 5, 5)), (nn.BatchNorm1d, (4, 6, 3))]
)
def test_in_fp32_it_is_pytorchs_batch_norm(theirs, shape):
    ours, theirs = BatchNorm(6, 1e-3, 0.2), theirs(6, 1e-3, 0.2)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    outputs, gradients = [], []
    for norm in (ours, theirs):
        x = batch(*shape).requires_grad_()
        out = norm(x)
        out.square().sum().backward()
        outputs += [out, norm.eval()(x)]
        gradients += [x.grad, norm.weight.grad, norm.bias.grad]
    assert all(torch.equal(a, b) for a, b in zip(outputs[:2], outputs[2:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients[:3], gradients[3:], strict=True))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("dtype", HALVES)
def test_statistics_stay_fp32_and_unrounded_when_the_network_is_cast(dtype):
    torch.manual_seed(1)
    network = R2Plus1D(R2PLUS1D_DIMS["tiny"])
    network(batch(2, 3, 8, 32, 32))
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.to(dtype)
    assert {p.dtype for p in network.parameters()} == {dtype}
    for name, value in network.named_buffers():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name]), name
    assert network(batch(2, 3, 8, 32, 32).to(dtype)).dtype == dtype


def test_other_casts_and_moves_take_the_statistics_along():
    assert BatchNorm(3).double().running_var.dtype == torch.float64
    assert BatchNorm(3).half().to("meta").running_var.device.type == "meta"
    assert BatchNorm(3).double()(batch(2, 3, 4).double()).dtype == torch.float64
    empty = BatchNorm(3).to("meta").half().to_empty(device="cpu")
    assert empty.running_mean.dtype == torch.float32 and empty.weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", HALVES)
def test_statistics_follow_small_steps_that_half_precision_would_round_away(dtype):
    norm = BatchNorm(1, momentum=0.001).to(dtype)
    for _ in range(2000):
        norm(torch.tensor([0.9, 1.1]).view(2, 1, 1).to(dtype))
    assert norm.running_mean.item() == pytest.approx(1 - 0.999**2000, abs=2e-3)
    rounded = torch.ones((), dtype=dtype) * 0.75
    assert torch.equal(rounded.lerp(torch.ones((), dtype=dtype), 0.0005), rounded)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_input_is_kept_as_it_is_for_the_backward_pass(dtype):
    norm, x = BatchNorm(6).to(dtype), batch(4, 6, 3, 5, 5).to(dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = norm(x)
    assert max((t.numel(), t.dtype) for t in kept if t.dtype == torch.float32)[0] == 6
    assert [t.dtype for t in kept if t.numel() == x.numel()] == [dtype]
    out.float().square().sum().backward()
    assert x.grad.dtype == norm.weight.grad.dtype == dtype
    expected = nn.BatchNorm3d(6)(x.detach().float())
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=2e-2)


def test_statistics_move_once_when_the_block_is_checkpointed():
    plain, again = BatchNorm(3), BatchNorm(3)
    for norm, call in ((plain, lambda norm, x: norm(x)), (again, checkpointed)):
        for _ in range(3):
            call(norm, batch(4, 3, 5).requires_grad_()).square().sum().backward()
        with torch.no_grad():
            call(norm, batch(4, 3, 5))  # no backward pass follows; PyTorch's moves as well
    assert again.num_batches_tracked == 4
    for name, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(plain.weight.grad, again.weight.grad)


def test_statistics_move_once_in_a_checkpoint_that_is_compiled_too():
    plain, compiled = BatchNorm(3), BatchNorm(3)
    run = torch.compile(lambda x: checkpointed(compiled, x), fullgraph=True, backend="aot_eager")
    for call in (plain, run):
        call(batch(4, 3, 5).requires_grad_()).square().sum().backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(compiled.state_dict()[name], value), name
    assert torch.equal(plain.weight.grad, compiled.weight.grad)
