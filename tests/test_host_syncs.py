"""A forward and backward pass launches its work on a GPU without waiting for values from there."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.test_model import LONGER, TEXT_ONLY, VIDEO, WITH_VIDEO, clips, source
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.heads import scores_by_question

# Reading a value, a shape that depends on values, copying a new tensor of numbers to the device.
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "lift_fresh"}
WAITING |= {"nonzero", "masked_select", "masked_scatter_backward", "unique", "_unique2"}


class Names(TorchDispatchMode):
    """The operations that run."""

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_waits_in_a_pass_of_the_model_and_its_loss(dtype):
    options = {"checkpoint_activations": True, "checkpoint_video_stages": 4}
    model = build_model(TinyConfig(**options), 384, VIDEO).to(dtype).train()
    rows, video, names = source(WITH_VIDEO, TEXT_ONLY, LONGER), clips(2), Names()
    target = torch.tensor([[11, 12, 1], [13, 1, 0], [14, 15, 1]])
    with names:
        logits, _ = model(rows, target.roll(1, 1), video=video)
        F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=0).backward()
    assert {"convolution_backward", "mm"} <= names.found
    assert not names.found & WAITING


def test_nothing_waits_where_scores_are_put_to_their_questions():
    scores = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    candidates, names = torch.tensor([[True, False], [True, True]]), Names()
    with names:
        found = scores_by_question(scores, candidates)
        likelihood = found[1].softmax(0)[1]
        likelihood.backward()
    assert found.tolist() == [[1.0, torch.finfo(torch.float32).min], [2.0, 3.0]]
    slope = torch.tensor(1.0).sigmoid() * torch.tensor(-1.0).sigmoid()
    torch.testing.assert_close(scores.grad, torch.stack([0 * slope, -slope, slope]).unsqueeze(1))
    assert not names.found & WAITING
