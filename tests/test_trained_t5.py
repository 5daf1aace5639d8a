"""Trained T5 weights (see `tests/trained_t5.py`) through ``vt-init``, against transformers."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as FastTokenizer
from transformers import T5ForConditionalGeneration

import vt_fairseq.plugin  # noqa: F401
from tests import trained_t5
from tests.commands import ROOT
from tests.conftest import made_once
from tests.replaying import Replays
from tests.test_init_command import build, failing, init, read
from tests.test_sequence_generator import assert_same
from tests.test_t5 import Ids, generate, generate_hf, shift_right
from tests.weights import vocabulary
from vt_fairseq.data.tokenizer import EOS, PAD, Tokenizer
from vt_fairseq.models.sequence_generator import SharedSourceGenerator
from vt_fairseq.models.step_graphs import StepGraphs

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(bool(trained_t5.missing()), reason=str(trained_t5.missing())),
]
SENTENCES = (ROOT / "tests" / "sentences.txt").read_text(encoding="utf-8").splitlines()
TABLE = "shared.weight"
NEW_ROWS = {32100: 32097, 32101: 32098, 32102: 32099}  # [CLS], [SEP], [MASK] start as sentinels
LONGEST = 24  # of what is generated


@pytest.fixture(scope="module")
def folder(test_data, shared_folder) -> Path:
    """The trained T5 as Hugging Face has it."""
    spiece = test_data / "t5" / "spiece.model"
    return made_once(shared_folder / "t5", lambda folder: trained_t5.write(folder, spiece))


@pytest.fixture(scope="module")
def started(folder, shared_folder) -> Path:
    """What vt-init makes of it: init.pt, and model/ beside it."""

    def start(made: Path) -> None:
        options = {"--t5": folder, "--video": "random", "--video-network": "tiny"}
        outputs = {"--out": made / "init.pt", "--export": made / "model"}
        init({**options, "--arch": "video_translate_t5_small", "--t5-variant": "v1_1", **outputs})

    return made_once(shared_folder / "started_t5", start)


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer.from_file(folder / "spiece.model")


@pytest.fixture(scope="module")
def ours(started):
    return build(read(started / "init.pt"))


@pytest.fixture(scope="module")
def theirs(folder) -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration.from_pretrained(folder).eval()


def sources(tokenizer: Tokenizer, sentences: list[str]) -> torch.Tensor:
    """(B, S) ids with </s>, as T5 was trained."""
    rows = [torch.tensor([*tokenizer.encode(sentence), EOS]) for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def test_every_tensor_is_used_and_none_is_missing(folder, started):
    report = read(started / "init.pt")["pretrained"]
    assert report["used"]["t5"] == {"tensors": 190, "numbers": 76_961_152}
    assert report["dropped"] == []
    assert all(name.startswith("encoder.video.") for name in report["new"])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["lost", "added"])
def test_a_tensor_that_is_missing_or_too_many_is_named(folder, tmp_path, capsys, change):
    name = "decoder.block.7.layer.2.DenseReluDense.wo.weight"
    tensors = load_file(folder / "model.safetensors")
    if change == "lost":
        del tensors[name]
    else:
        name = name.replace("wo", "wx")
        tensors[name] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for beside in ("config.json", "spiece.model"):
        shutil.copy(folder / beside, tmp_path)
    options = {"--t5": tmp_path, "--video": "random", "--arch": "from-t5"}
    assert name in failing(capsys, options | {"--out": tmp_path / "init.pt"})


@torch.no_grad()
def test_logits_are_those_of_transformers_up_to_the_rounding_of_both(ours, theirs, tokenizer):
    """They reach 80, where fp32's steps are 8e-6: fp64 says how far rounding takes either."""
    source, target = (sources(tokenizer, SENTENCES[n : n + 6]) for n in (0, 20))
    given = {"attention_mask": source.ne(PAD).long(), "decoder_input_ids": shift_right(target)}
    seen = target.ne(PAD)
    expected = theirs(source, **given).logits[seen]
    exact = theirs.double()(source, **given).logits[seen]
    theirs.float()
    found = ours(source, shift_right(target))[0][seen]
    assert (found - expected).abs().mean() < 2e-5
    assert (found - exact).abs().max() <= 1.5 * (expected - exact).abs().max() < 1.5e-4


@pytest.mark.slow
@pytest.mark.parametrize("beam", [1, 5])
def test_what_is_decoded_of_a_hundred_sentences_is_transformers_token_for_token(
    ours, theirs, tokenizer, beam
):
    assert_same_texts(ours, theirs, sources(tokenizer, SENTENCES), beam)


def test_what_is_decoded_of_some_sentences_is_transformers_token_for_token(ours, theirs, tokenizer):
    assert_same_texts(ours, theirs, sources(tokenizer, SENTENCES[:4]), beam=1)


def assert_same_texts(ours, theirs, source: torch.Tensor, beam: int) -> None:
    found = generate(ours, source, beam, LONGEST)
    assert found == generate_hf(theirs, source, beam, LONGEST)[0]
    assert len({tuple(row) for row in found}) > 0.9 * len(source)


@pytest.mark.parametrize("beam", [1, 4])
def test_steps_of_fixed_shapes_replayed_or_not_write_what_fairseqs_steps_write(
    ours, tokenizer, beam
):
    vocabulary = ours.decoder.embed_tokens.num_embeddings
    generator = SharedSourceGenerator([ours], Ids(vocabulary), beam_size=beam, max_len_b=LONGEST)
    for sentences in (SENTENCES[:5], SENTENCES[5:8]):
        source = sources(tokenizer, sentences)
        found = []
        for fixed, graphs in ((False, None), (True, None), (True, StepGraphs(Replays()))):
            generator.fixed_shapes, ours.decoder.graphs = fixed, graphs
            sample = {"net_input": {"src_tokens": source}}
            found.append(generator.generate(None, sample, bos_token=PAD))
            ours.decoder.graphs = None
        assert_same(found[1], found[0])
        assert_same(found[2], found[0])


def test_it_answers_a_question_in_words(ours, tokenizer):
    tokens = generate(ours, sources(tokenizer, SENTENCES[:1]), 1, LONGEST)[0]
    assert tokenizer.decode(tokens).lower() == "blue"


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_texts_and_nearly_the_loss_of_fp32(
    started, tokenizer, dtype, ours
):
    source, target = (sources(tokenizer, SENTENCES[n : n + 5]) for n in (0, 5))
    half = build(read(started / "init.pt")).to(dtype)
    losses = []
    for model in (ours, half):
        logits, _ = model(source, shift_right(target))
        assert logits.isfinite().all() and logits.dtype == torch.float32
        losses.append(F.cross_entropy(logits.transpose(1, 2), target, ignore_index=PAD))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.01, atol=0)
    assert all(row[-1] == EOS for row in generate(half, source[:2], 1, 8))


def test_the_exported_t5_loads_strictly_and_is_what_was_read(folder, started):
    again, report = T5ForConditionalGeneration.from_pretrained(
        started / "model" / "t5", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tensors = load_file(folder / "model.safetensors")
    for new, sentinel in NEW_ROWS.items():
        tensors[TABLE][new] = tensors[TABLE][sentinel]
    found = again.state_dict()
    assert tensors.keys() <= found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.slow
def test_an_exported_model_can_be_joined_again_and_nothing_changes(started, tmp_path):
    options = {"--t5": started / "model" / "t5", "--video": "random", "--video-network": "tiny"}
    init({**options, "--arch": "from-t5", "--out": tmp_path / "init.pt"})
    before, after = (read(path / "init.pt")["model"] for path in (started, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_the_vocabulary_has_the_wheels_pieces_and_gives_its_ids(tokenizer):
    fast = FastTokenizer.from_file(str(trained_t5.wheel_folder() / "tokenizer.json"))
    symbols = tokenizer.symbols()
    assert tokenizer.num_pieces == 32000
    for name, number in fast.get_vocab().items():
        assert symbols[number] == name
    for sentence in SENTENCES:
        assert [*tokenizer.encode(sentence), EOS] == fast.encode(sentence).ids


def test_another_vocabulary_is_refused(folder, test_data, tmp_path, capsys):
    alone = shutil.copytree(folder, tmp_path / "t5")
    (alone / "spiece.model").unlink()
    (tmp_path / "small.model").write_bytes(vocabulary())
    options = {"--t5": alone, "--video": "random", "--arch": "from-t5"}
    options["--out"] = tmp_path / "init.pt"
    assert "no spiece.model beside" in failing(capsys, options)
    small = failing(capsys, options | {"--vocabulary": tmp_path / "small.model"})
    assert "the spiece.model that belongs to" in small
    other = test_data / "t5" / "not_t5_sentencepiece.model"
    assert "does not have T5's ids" in failing(capsys, options | {"--vocabulary": other})
    assert not (tmp_path / "init.pt").exists()
