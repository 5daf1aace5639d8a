"""Heads on the [CLS] state: shapes, shared clips, weights that start anew."""

import pytest
import torch

from tests.test_model import CLS, LONGER, SEP, TEXT_ONLY, VIDEO, WITH_VIDEO, clips, source
from vt_fairseq.data.head_targets import candidate_mask
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.heads import scores_by_question
from vt_fairseq.models.masked_rows import rows_at
from vt_fairseq.models.video_translate import VideoTranslateModel


def build(**sizes: int) -> VideoTranslateModel:
    torch.manual_seed(0)
    return build_model(TinyConfig(), 384, VIDEO, sizes).eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_has_fp32_logits_of_its_classes_for_every_row(dtype):
    model = build(verb=6, noun=24).to(dtype)
    encoded = model.encoder(source(WITH_VIDEO, LONGER), video=clips(2))
    logits = model.class_logits(encoded)
    assert {name: tuple(x.shape) for name, x in logits.items()} == {"verb": (2, 6), "noun": (2, 24)}
    assert all(x.dtype == torch.float32 for x in logits.values())


@torch.no_grad()
def test_the_logits_are_a_linear_map_of_the_first_state_and_of_no_other():
    model = build(verb=6)
    rows = source(WITH_VIDEO, TEXT_ONLY)
    encoded = model.encoder(rows, video=clips(1))
    head = model.heads["verb"]
    expected = encoded["encoder_out"][0][0] @ head.weight.T + head.bias
    found = model(rows, video=clips(1))["verb"]
    torch.testing.assert_close(found, expected)
    encoded["encoder_out"][0][1:] = 0
    torch.testing.assert_close(model.class_logits(encoded)["verb"], expected)


def question(*candidates: int) -> list[list[int]]:
    return [[CLS, 5, *[VIDEO] * 4, SEP, candidate] for candidate in candidates]


@torch.no_grad()
def test_rows_that_share_a_clip_equal_rows_with_a_copy_each_and_the_network_sees_it_once():
    model, video = build(answer=1), clips(2)
    rows = source(*question(7, 8, 9), TEXT_ONLY, *question(7, 10))
    clip_of_row = torch.tensor([0, 0, 0, 1, 1])
    seen = []
    model.encoder.video.network.register_forward_hook(lambda m, x, y: seen.append(len(x[0])))
    shared = model(rows, video=video, clip_of_row=clip_of_row)["answer"]
    assert seen == [2]
    copied = model(rows, video=video[clip_of_row])["answer"]
    torch.testing.assert_close(shared, copied)
    alone = model(source(question(10)[0]), video=video[1:])["answer"]
    torch.testing.assert_close(shared[-1:], alone, atol=1e-5, rtol=1e-5)


def test_scores_are_laid_out_by_question_and_places_without_a_candidate_have_no_probability():
    candidates = candidate_mask([2, 0, 3])
    assert candidates.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    scores = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]], requires_grad=True)
    table = scores_by_question(scores, candidates)
    probabilities = table.softmax(-1)
    torch.testing.assert_close(probabilities[0, :2], scores[:2, 0].softmax(0))
    assert probabilities[0, 2] == 0 and probabilities.isfinite().all()
    torch.testing.assert_close(table[2], scores[2:, 0])
    table.log_softmax(-1)[2, 0].backward()
    assert scores.grad[:2].eq(0).all() and scores.grad[2:].ne(0).all()


def test_heads_train_everything_but_the_decoder_whose_embeddings_are_the_encoders_too():
    model = build(verb=6).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("decoder.") for name in frozen)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    model(source(WITH_VIDEO), video=clips(1))["verb"].square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())


@pytest.mark.parametrize("sizes", [{}, {"verb": 6}])
def test_with_frozen_text_the_video_network_its_projection_and_heads_train_alone(sizes):
    torch.manual_seed(0)
    model = build_model(TinyConfig(freeze_text=True), 384, VIDEO, sizes).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    video = {name for name, _ in model.named_parameters() if name.startswith("encoder.video.")}
    assert trained == video | {
        f"heads.{name}.{part}" for name in sizes for part in ("weight", "bias")
    }
    previous = None if sizes else source(TEXT_ONLY)
    output = model(source(WITH_VIDEO), previous, video=clips(1))
    (output["verb"] if sizes else output[0]).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name


def test_heads_on_the_video_see_the_mean_of_its_tokens_and_train_the_video_network_alone():
    torch.manual_seed(0)
    model = build_model(TinyConfig(heads_on="video"), 384, VIDEO, {"verb": 6, "noun": 2}).eval()
    trained = {name.split(".")[0:2][-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"video", "verb", "noun"}
    model.encoder.transformer = None  # nothing may call it
    video, head = clips(2), model.heads["verb"]
    with torch.no_grad():
        expected = model.encoder.video(video).mean(dim=1) @ head.weight.T + head.bias
        found = model(source(WITH_VIDEO, TEXT_ONLY, LONGER), video=video)["verb"]
    torch.testing.assert_close(found[[0, 2]], expected)
    torch.testing.assert_close(found[1], head.bias)  # a row without video has nothing to see


@pytest.mark.parametrize("sizes", [{}, {"answer": 1}])
def test_heads_on_the_video_without_classes_are_a_mistake(sizes):
    with pytest.raises(UserError, match="--heads-on video: expected --heads"):
        build_model(TinyConfig(heads_on="video"), 384, VIDEO, sizes)


def test_a_model_without_heads_is_what_it_was():
    torch.manual_seed(0)
    plain = build_model(TinyConfig(), 384, VIDEO)
    assert all(p.requires_grad for p in plain.parameters()) and plain.heads is None
    assert plain.state_dict().keys() == {
        k for k in build(verb=6).state_dict() if not k.startswith("heads.")
    }


# --- weights -------------------------------------------------------------------------------------


def test_heads_that_a_checkpoint_lacks_start_anew_only_where_that_is_asked_for():
    generative, model = build(), build(verb=6, noun=4)
    with pytest.raises(UserError, match=r"no heads noun, verb.*--finetune-from-model"):
        model.load_state_dict(generative.state_dict())
    model.heads_start_anew = True
    model.load_state_dict(generative.state_dict())
    for name, value in generative.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_heads_that_the_model_lacks_are_left_out_only_where_that_is_asked_for():
    classifier, model = build(verb=6, noun=4), build(noun=4)
    with pytest.raises(UserError, match=r"heads that the model does not have: verb"):
        model.load_state_dict(classifier.state_dict())
    model.heads_start_anew = True
    model.load_state_dict(classifier.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[name])


def test_everything_but_new_heads_is_strict():
    model = build(verb=6)
    model.heads_start_anew = True
    state = build().state_dict()
    del state["encoder.transformer.final_norm.weight"]
    with pytest.raises(UserError, match=r"encoder\.transformer\.final_norm\.weight"):
        model.load_state_dict(state)


def test_one_head_may_be_kept_beside_a_new_one_and_none_is_dropped():
    old, new = build(verb=6), build(verb=6, noun=4)
    with torch.no_grad():
        old.heads["verb"].weight += 1
    own = new.heads["noun"].weight.clone()
    new.heads_start_anew = True
    new.load_state_dict(old.state_dict())
    assert torch.equal(new.heads["verb"].weight, old.heads["verb"].weight)
    assert torch.equal(new.heads["noun"].weight, own)
    with pytest.raises(UserError, match=r"the model does not have: verb; expected --heads verb"):
        build().load_state_dict(old.state_dict())


def test_no_rows_in_no_places_are_zeros_that_still_reach_the_parameters():
    weight = torch.ones(3, requires_grad=True)
    placed = rows_at(torch.zeros(2, 4, dtype=torch.bool), torch.ones(0, 3) * weight)
    assert placed.shape == (2, 4, 3) and not placed.any()
    placed.sum().backward()
    assert weight.grad is not None and not weight.grad.any()
