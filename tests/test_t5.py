"""T5 against Hugging Face's, through our own key map, and against itself.

Beam search: fairseq and Hugging Face agree on the best hypothesis when Hugging Face stops early
(``early_stopping=True``), because both then stop at the fifth finished hypothesis of a row, both
finish only what is among the five best continuations, and both divide the summed log-likelihood
by (tokens with eos) ** penalty. They keep different fifth-best hypotheses when several finish at
once, never different best ones: those that finish together have one length, so their order does
not change. What is left is made equal: fairseq never emits pad and never an empty target
(``suppress_tokens``, ``min_new_tokens``), and at the longest length it adds eos with eos's own
log-likelihood (``EosAtTheEnd``).
"""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.sequence_generator import SequenceGenerator
from torch import nn
from transformers import LogitsProcessor, T5Config, T5ForConditionalGeneration

from vt_fairseq.models.pretrained.t5_weights import config_of_dims, dims_of_config, hf_key
from vt_fairseq.models.t5 import (
    T5_DIMS,
    T5_V1_1_DIMS,
    T5Decoder,
    T5Dims,
    T5Encoder,
    init_t5_parameters,
)
from vt_fairseq.models.video_translate import MultimodalEncoder

PAD, EOS, UNK = 0, 1, 2
NARROW = T5Dims(96, 64, 16, 128, 4, 2, 2, dropout=0.0)
NARROW_V1_1 = replace(NARROW, gated_gelu=True, tie_word_embeddings=False)


class Ids:
    """The part of fairseq's Dictionary that its generator reads."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def pad(self) -> int:
        return PAD

    def eos(self) -> int:
        return EOS

    def unk(self) -> int:
        return UNK


class EosAtTheEnd(LogitsProcessor):
    """Only eos may follow ``last`` tokens; its score stays (fairseq's rule at the end)."""

    def __init__(self, last: int):
        self.last = last

    def __call__(self, input_ids, scores):
        if input_ids.size(1) <= self.last:
            return scores
        return torch.full_like(scores, -torch.inf).index_copy(
            1, torch.tensor([EOS]), scores[:, EOS : EOS + 1]
        )


def build(dims: T5Dims) -> FairseqEncoderDecoderModel:
    torch.manual_seed(3)
    embed_tokens = nn.Embedding(dims.vocab_size, dims.d_model)
    encoder = MultimodalEncoder(embed_tokens, nn.Identity(), dims, video_id=-1)
    decoder = T5Decoder(dims, embed_tokens)
    init_t5_parameters(embed_tokens, encoder.transformer, decoder, dims)
    return FairseqEncoderDecoderModel(encoder, decoder).eval()


def build_hf(dims: T5Dims) -> T5ForConditionalGeneration:
    """Random weights that make every part matter.

    As T5 starts, biases and norms are nearly inert and the decoder repeats its last token, whose
    tied embedding outweighs what it attends to.
    """
    torch.manual_seed(4)
    hf = T5ForConditionalGeneration(T5Config(**config_of_dims(dims))).eval()
    if not dims.tie_word_embeddings:
        # transformers 5 ties it until a checkpoint says otherwise.
        scale = dims.d_model**-0.5
        hf.lm_head.weight = nn.Parameter(torch.randn_like(hf.shared.weight) * scale)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "relative_attention_bias" in name:
                parameter.normal_()
            elif "layer_norm" in name:
                parameter.normal_(1.0, 0.2)
            elif "EncDecAttention" in name:
                parameter.mul_(3)
    return hf


def load_hf(model: FairseqEncoderDecoderModel, state: dict[str, torch.Tensor]) -> None:
    """Fill every parameter from ``state`` and leave nothing of it over."""
    state = dict(state)
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if model.decoder.lm_head is None:
        copies.append("lm_head.weight")
    for copy in copies:
        assert torch.equal(state.pop(copy), state["shared.weight"])
    keys = {name: hf_key(name) for name in model.state_dict()}
    assert set(keys.values()) == set(state)
    model.load_state_dict({name: state[key] for name, key in keys.items()}, strict=True)


def pair(dims: T5Dims) -> tuple[FairseqEncoderDecoderModel, T5ForConditionalGeneration]:
    model, hf = build(dims), build_hf(dims)
    load_hf(model, hf.state_dict())
    return model, hf


@pytest.fixture(scope="module")
def narrow():
    return pair(NARROW)


@pytest.fixture(scope="module")
def narrow_v1_1():
    return pair(NARROW_V1_1)


@pytest.fixture(scope="module")
def small():
    """t5-small but for a vocabulary short enough that random weights emit eos."""
    sizes = T5_DIMS["small"]
    return pair(T5Dims(64, sizes.d_model, sizes.d_kv, sizes.d_ff, sizes.num_heads, 6, 6, 0.0))


@pytest.fixture(scope="module")
def real(test_data):
    folder = test_data / "t5" / "tiny_t5_hf"
    config = json.loads((folder / "config.json").read_text())
    hf = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    dims = replace(dims_of_config(config, folder), dropout=0.0)
    model = build(dims)
    load_hf(model, hf.state_dict())
    return model, hf


MODELS = ["narrow", "narrow_v1_1", "small", pytest.param("real", marks=pytest.mark.data)]


@pytest.fixture
def models(request):
    return request.getfixturevalue(request.param)


def random_ids(vocabulary: int, rows: int, longest: int, shortest: int, seed: int) -> torch.Tensor:
    """(rows, longest) ids, right-padded, of lengths ``shortest`` ... ``longest``."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(UNK, vocabulary, (rows, longest), generator=generator)
    lengths = torch.randint(shortest, longest + 1, (rows, 1), generator=generator)
    lengths[0] = longest
    return ids.masked_fill(torch.arange(longest) >= lengths, PAD)


def shift_right(target: torch.Tensor) -> torch.Tensor:
    return F.pad(target[:, :-1], (1, 0), value=PAD)


def rounding(model) -> float:
    """How much coarser than T5 1.0 in fp32 a model computes: 1.1's random logits, ours and Hugging
    Face's, are 3e-5 away from those in fp64.
    """
    return 1.0 if model.decoder.lm_head is None else 5.0


@torch.no_grad()
def assert_same_states_logits_and_loss(models, source: torch.Tensor, target: torch.Tensor):
    model, hf = models
    labels = target.masked_fill(target.eq(PAD), -100)
    expected = hf(input_ids=source, attention_mask=source.ne(PAD).long(), labels=labels)
    encoder_out = model.encoder(source)
    logits, extra = model.decoder(shift_right(target), encoder_out=encoder_out)
    seen = source.ne(PAD)
    states = encoder_out["encoder_out"][0].transpose(0, 1)
    close = {"rtol": 1e-5, "atol": 1e-5 * rounding(model)}
    torch.testing.assert_close(states[seen], expected.encoder_last_hidden_state[seen], **close)
    torch.testing.assert_close(logits, expected.logits, **close)
    loss = F.cross_entropy(logits.transpose(1, 2), labels)
    torch.testing.assert_close(loss, expected.loss, **close)
    assert extra == {"attn": [None]}


@pytest.mark.parametrize("models", MODELS, indirect=True)
@pytest.mark.parametrize(
    ("rows", "source", "target"),
    [(5, (30, 1), (12, 1)), pytest.param(2, (300, 140), (200, 140), id="beyond the last bucket")],
)
def test_states_logits_and_loss_are_hugging_faces(models, rows, source, target):
    vocabulary = models[1].config.vocab_size
    source = random_ids(vocabulary, rows, *source, seed=1)
    target = random_ids(vocabulary, rows, *target, seed=2)
    assert_same_states_logits_and_loss(models, source, target)


@pytest.mark.parametrize("models", ["narrow", "narrow_v1_1"], indirect=True)
def test_gradients_are_hugging_faces(models):
    model, hf = models
    source = random_ids(NARROW.vocab_size, 4, 40, 5, seed=5)
    target = random_ids(NARROW.vocab_size, 4, 20, 5, seed=6)
    labels = target.masked_fill(target.eq(PAD), -100)
    hf(input_ids=source, attention_mask=source.ne(PAD).long(), labels=labels).loss.backward()
    logits, _ = model.decoder(shift_right(target), encoder_out=model.encoder(source))
    F.cross_entropy(logits.transpose(1, 2), labels).backward()
    expected = {name: parameter.grad for name, parameter in hf.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad,
            expected[hf_key(name)],
            rtol=1e-4,
            atol=1e-6 * rounding(model),
            msg=lambda text, name=name: f"{name}: {text}",
        )
    model.zero_grad()
    hf.zero_grad()


def generate(model, source: torch.Tensor, beam: int, max_len: int) -> list[list[int]]:
    vocabulary = model.decoder.embed_tokens.num_embeddings
    generator = SequenceGenerator(
        [model], Ids(vocabulary), beam_size=beam, max_len_b=max_len, min_len=1, len_penalty=1.0
    )
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    hypotheses = generator.generate([model], sample, bos_token=PAD)
    return [row[0]["tokens"].tolist() for row in hypotheses]


def generate_hf(
    hf, source: torch.Tensor, beam: int, max_len: int
) -> tuple[list[list[int]], torch.Tensor | None]:
    """The texts, and with several beams their scores."""
    beam_options = {"early_stopping": True, "length_penalty": 1.0} if beam > 1 else {}
    generated = hf.generate(
        source,
        attention_mask=source.ne(PAD).long(),
        do_sample=False,
        num_beams=beam,
        max_new_tokens=max_len + 1,
        min_new_tokens=1,
        suppress_tokens=[PAD],
        logits_processor=[EosAtTheEnd(max_len)],
        return_dict_in_generate=True,
        output_scores=True,
        **beam_options,
    )
    # Behind the start token, up to eos, which every row has.
    texts = [row[1 : row.index(EOS) + 1] for row in generated.sequences.tolist()]
    return texts, generated.get("sequences_scores")


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize(
    ("models", "longest", "max_len", "different"),
    [
        ("narrow", 20, 16, 20),
        ("narrow_v1_1", 20, 16, 20),
        ("small", 8, 4, 20),
        pytest.param("real", 20, 16, 0, marks=pytest.mark.data),
    ],
    indirect=["models"],
)
def test_a_hundred_decoded_targets_are_hugging_faces_token_for_token(
    models, longest, max_len, different, beam
):
    model, hf = models
    source = random_ids(hf.config.vocab_size, 100, longest, 3, seed=7)
    ours = generate(model, source, beam, max_len)
    assert ours == generate_hf(hf, source, beam, max_len)[0]
    assert len({tuple(row) for row in ours}) > different


@pytest.mark.parametrize("beam", [1, 5])
def test_the_decoded_targets_compared_end_early_and_late(narrow, beam):
    lengths = [len(row) for row in generate(narrow[0], random_ids(96, 100, 20, 3, 7), beam, 16)]
    assert sum(length < 17 for length in lengths) > 5
    assert sum(length == 17 for length in lengths) > 5


@torch.no_grad()
@pytest.mark.parametrize(("step", "length"), [(1, 24), (3, 150)])
def test_incremental_decoding_equals_teacher_forced_decoding(narrow, step, length):
    model, _ = narrow
    source = random_ids(NARROW.vocab_size, 3, 12, 4, seed=11)
    previous = shift_right(random_ids(NARROW.vocab_size, 3, length, length, seed=12))
    encoder_out = model.encoder(source)
    expected, _ = model.decoder(previous, encoder_out=encoder_out)
    state = {}
    pieces = [
        model.decoder(previous[:, :end], encoder_out=encoder_out, incremental_state=state)[0]
        for end in range(step, previous.size(1) + 1, step)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("order", [[2, 0, 1], [1, 1, 0], [2], [0, 0, 1, 1, 2, 2], [0, 1, 2]])
def test_decoding_goes_on_with_rows_in_another_order(narrow, order):
    model, _ = narrow
    new_order = torch.tensor(order)
    encoder_out = model.encoder(random_ids(NARROW.vocab_size, 3, 12, 4, seed=13))
    previous = shift_right(random_ids(NARROW.vocab_size, 3, 6, 6, seed=14))
    state = {}
    for end in range(1, 6):
        model.decoder(previous[:, :end], encoder_out=encoder_out, incremental_state=state)
    model.decoder.reorder_incremental_state_scripting(state, new_order)
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, new_order)
    previous = previous[new_order]
    last, _ = model.decoder(previous, encoder_out=encoder_out, incremental_state=state)
    expected, _ = model.decoder(previous, encoder_out=encoder_out)
    torch.testing.assert_close(last, expected[:, -1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [NARROW, NARROW_V1_1], ids=["v1_0", "v1_1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_of_nothing_but_padding_gives_no_nan(dtype, dims):
    model = build(dims).to(dtype)
    source = random_ids(NARROW.vocab_size, 3, 10, 4, seed=19)
    source[1] = PAD
    target = random_ids(NARROW.vocab_size, 3, 5, 5, seed=20)
    logits, _ = model.decoder(shift_right(target), encoder_out=model.encoder(source))
    assert logits.isfinite().all()
    F.cross_entropy(logits.transpose(1, 2), target).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("gated", [False, True])
def test_initial_weights_have_the_spread_of_hugging_faces(gated):
    dims = T5Dims(500, 128, 32, 256, 4, 1, 1, gated_gelu=gated)
    torch.manual_seed(5)
    expected = T5ForConditionalGeneration(T5Config(**config_of_dims(dims))).state_dict()
    for name, parameter in build(dims).state_dict().items():
        key = hf_key(name)
        torch.testing.assert_close(
            (parameter.std(), parameter.abs().mean()),
            (expected[key].std(), expected[key].abs().mean()),
            # 128 draws at least: their spread is known to about 6 %.
            rtol=0.25,
            atol=0,
            msg=lambda text, key=key: f"{key}: {text}",
        )


@pytest.mark.parametrize(
    ("dims", "parameters"),
    [
        (T5_DIMS["tiny"], 4_769_536),
        (T5_DIMS["small"], 60_506_624),
        (T5_DIMS["base"], 222_903_552),
        (T5_DIMS["large"], 737_668_096),
        (T5_V1_1_DIMS["small"], 76_961_152),
        (T5_V1_1_DIMS["base"], 247_577_856),
        (T5_V1_1_DIMS["large"], 783_150_080),
    ],
)
def test_a_size_has_as_many_parameters_as_the_published_checkpoint(dims, parameters):
    with torch.device("meta"):
        embed_tokens = nn.Embedding(dims.vocab_size, dims.d_model)
        networks = nn.ModuleList([T5Encoder(dims), T5Decoder(dims, embed_tokens)])
    assert sum(parameter.numel() for parameter in networks.parameters()) == parameters


def test_dropout_acts_in_training_only():
    dims = T5Dims(96, 64, 16, 128, 4, 2, 2, dropout=0.5)
    model = build(dims)
    source = random_ids(96, 2, 10, 4, seed=23)

    def states() -> torch.Tensor:
        return model.encoder(source)["encoder_out"][0]

    assert torch.equal(states(), states())
    model.train()
    assert not torch.equal(states(), states())
