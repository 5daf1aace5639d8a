"""Heads on the [CLS] state: shapes, sources a candidate, shared clips, weights that start anew."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.test_model import CLS, LONGER, SEP, TEXT_ONLY, VIDEO, WITH_VIDEO, clips, source
from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.data.head_targets import (
    CLASS_HEADS,
    NO_CLASS,
    HeadTargets,
    candidate_mask,
    parse_heads,
)
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.prompts import BUILT_IN
from vt_fairseq.data.text import TextOptions
from vt_fairseq.data.text_noise import TextNoise
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.heads import scores_by_question
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


def test_everything_but_new_heads_is_strict():
    model = build(verb=6)
    model.heads_start_anew = True
    state = build().state_dict()
    del state["encoder.transformer.final_norm.weight"]
    with pytest.raises(RuntimeError, match=r"encoder\.transformer\.final_norm\.weight"):
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


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(data_directory) -> Tokenizer:
    return Tokenizer.from_file(data_directory / "spiece.model")


@pytest.fixture
def dataset(data_directory, tokenizer):
    data = DataDirectory.open(data_directory)

    def make(*heads: str, train: bool = True, context: bool = True) -> VideoTextDataset:
        lists = {name: data.classes(name) for name in CLASS_HEADS}
        targets = HeadTargets.of(heads, lists, str(data.path))
        return VideoTextDataset(
            rows=data.manifest("train"),
            load_frames=lambda row, rng: np.full((8, 32, 32, 3), 7, dtype=np.uint8),
            num_video_tokens=2,
            prompts=[BUILT_IN[targets.prompt_name]],
            reuse_batch=False,
            text=TextOptions(
                tokenizer,
                TextNoise("unmodified", "batch", 0.0, tokenizer.mask),
                test_mask_tokens=8,
                context=context,
            ),
            seed=3,
            train=train,
            heads=targets,
        )

    return make


@pytest.mark.parametrize("train", [True, False])
def test_classes_are_numbered_in_the_order_of_the_class_lists(data_directory, dataset, train):
    data = DataDirectory.open(data_directory)
    made = dataset("verb", "noun", "label", train=train)
    sample = made.collater([made[i] for i in range(6)])
    for i in range(6):
        row = made.rows[i]
        for name in ("verb", "noun", "label"):
            number = int(sample["classes"][name][i])
            assert data.classes(name)[number] == getattr(row, name)


@pytest.mark.parametrize("train", [True, False])
def test_the_source_holds_prompt_video_and_context_and_nothing_of_the_target(
    dataset, tokenizer, train
):
    made = dataset("verb", "noun", train=train)
    sample = made.collater([made[0]])
    assert sample["target"] is None and "prev_output_tokens" not in sample["net_input"]
    video, t = [tokenizer.video] * 2, tokenizer
    head = [t.cls, *t.encode("classify :"), *video, t.sep]
    expected = [*head, *t.encode(made.rows[0].context)]
    assert sample["net_input"]["src_tokens"][0].tolist() == expected
    without = dataset("verb", context=False)
    tokens = without.collater([without[0]])["net_input"]["src_tokens"][0]
    assert tokens.tolist() == head


def test_each_candidate_has_a_source_with_question_candidate_and_subtitles(dataset, tokenizer):
    made = dataset("answer")
    sample = made.collater([made[0], made[1]])
    inputs = sample["net_input"]
    assert sample["candidates"].tolist() == [[True] * 5] * 2
    assert inputs["src_tokens"].shape[0] == 10 and len(inputs["video"]) == 2
    assert inputs["clip_of_row"].tolist() == [0] * 5 + [1] * 5
    assert sample["classes"]["answer"].tolist() == [made.rows[i].answer for i in range(2)]
    row, t = made.rows[1], tokenizer
    expected = [
        *[t.cls, *t.encode(f"answer : {row.question}"), t.video, t.video],
        *[t.sep, *t.encode(row.candidates[2]), t.sep, *t.encode(row.context)],
    ]
    assert inputs["src_tokens"][7][: len(expected)].tolist() == expected


def test_unreadable_clips_and_rows_without_a_question_keep_the_places_of_the_others(dataset):
    made = dataset("answer", train=False)
    frames = made.load_frames
    broken = made.rows[0].id

    def load(row, rng):
        if row.id == broken:
            raise VideoError("broken on purpose")
        return frames(row, rng)

    made.load_frames = load
    batch = [made[i] for i in range(4)]
    batch[1].row = replace(batch[1].row, question=None, candidates=(), answer=None)
    batch[2].row = replace(batch[2].row, candidates=batch[2].row.candidates[:2], answer=None)
    sample = made.collater(batch)
    assert sample["candidates"].sum(1).tolist() == [5, 0, 2, 5]
    # Three clips were read, and the unreadable one's five sources hold no video.
    assert len(sample["net_input"]["video"]) == 3
    assert sample["net_input"]["clip_of_row"].tolist() == [1] * 2 + [2] * 5
    targets = sample["classes"]["answer"].tolist()
    assert targets[1:3] == [NO_CLASS] * 2 and sample["missing"].tolist() == [True] + [False] * 3


def test_a_batch_without_any_question_is_a_sample_without_sources(dataset):
    made = dataset("answer")
    batch = [made[0], made[1]]
    for clip in batch:
        clip.row = replace(clip.row, candidates=(), answer=None)
    sample = made.collater(batch)
    assert len(sample["net_input"]["src_tokens"]) == 0
    assert sample["candidates"].shape == (2, 0)
    assert sample["classes"]["answer"].tolist() == [NO_CLASS] * 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("verbs", "some of verb, noun, label, answer"),
        ("verb,verb", "each once"),
        ("answer,verb", "train them apart"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_was_expected(option, message):
    with pytest.raises(UserError, match=message):
        parse_heads(option)


def test_heads_without_classes_and_classes_that_the_lists_lack_are_refused(dataset):
    with pytest.raises(UserError, match="no row of DATA has a verb"):
        HeadTargets.of(["verb"], {"verb": []}, "DATA")
    made = dataset("verb")
    clip = made[0]
    clip.row = replace(clip.row, verb="fly")
    with pytest.raises(UserError, match=f"clip {clip.row.id}: verb 'fly' is none of the"):
        made.collater([clip])
