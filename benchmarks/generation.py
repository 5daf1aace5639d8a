"""Generation against its peers: texts of exactly 20 tokens for 8 sources of 28, T5-small, fp32.

    python benchmarks/generation.py [--rounds 9]

On equal (random) weights: ours; ``generate`` of transformers; and fairseq's SequenceGenerator with
a decoder of fairseq's own parts (``stock_decoder.py``). Greedy search and beams of 4. Each runs its
encoder, too. CPU time, one thread, in turn. That all write the same tokens is checked first. At
last torch's profiler says how much of it is matrix products, which nobody saves. Writes
results/generation.json.
"""

import argparse
import sys
from dataclasses import replace

import measuring
import torch
from torch import nn

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from fairseq.data import Dictionary
    from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel
    from fairseq.sequence_generator import SequenceGenerator
    from stock_decoder import StockDecoder
    from transformers import LogitsProcessor, T5Config, T5ForConditionalGeneration

    from vt_fairseq.data.tokenizer import EOS, PAD, UNK
    from vt_fairseq.models.pretrained.t5_weights import config_of_dims, hf_key
    from vt_fairseq.models.sequence_generator import SharedSourceGenerator
    from vt_fairseq.models.t5 import T5_DIMS, T5Decoder, T5Encoder

DIMS = replace(T5_DIMS["small"], dropout=0.0)
SOURCES, SOURCE, TARGET = 8, 28, 20
BARS = {  # beams: least CPU time relative to ours
    1: {"transformers": 1.1, "stock": 1.5},
    4: {"transformers": 1.05, "stock": 1.5},
}
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
NAMES = {"transformers": "transformers generate", "stock": "fairseq with a stock-style decoder"}


def dictionary() -> Dictionary:
    """fairseq's, with T5's ids and no texts."""
    made = Dictionary()
    made.symbols = [""] * DIMS.vocab_size
    made.pad_index, made.eos_index, made.unk_index = PAD, EOS, UNK
    return made


class EosAtTheEnd(LogitsProcessor):
    """fairseq's rule for transformers: only eos follows the last token, and its score counts."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(R, L) ids and (R, V) scores -> the scores of the next token."""
        if input_ids.size(1) <= TARGET:
            return scores
        only = torch.full_like(scores, -torch.inf)
        only[:, EOS] = scores[:, EOS]
        return only


class TextEncoder(FairseqEncoder):
    """T5's encoder over ids, in fairseq's form."""

    def __init__(self, embed_tokens: nn.Embedding):
        super().__init__(None)
        self.embed_tokens, self.transformer = embed_tokens, T5Encoder(DIMS)

    def forward(self, src_tokens: torch.Tensor, src_lengths: torch.Tensor | None = None) -> dict:
        """(B, S) ids -> fairseq's encoder output."""
        padding = src_tokens.eq(PAD)
        states = self.transformer(self.embed_tokens(src_tokens), padding)
        return {"encoder_out": [states.transpose(0, 1)], "encoder_padding_mask": [padding]}

    def reorder_encoder_out(self, encoder_out: dict, new_order: torch.Tensor) -> dict:
        """As fairseq's transformer has it; our generator does not call it."""
        return {
            "encoder_out": [encoder_out["encoder_out"][0].index_select(1, new_order)],
            "encoder_padding_mask": [
                encoder_out["encoder_padding_mask"][0].index_select(0, new_order)
            ],
        }


def build() -> tuple[T5ForConditionalGeneration, dict[str, FairseqEncoderDecoderModel]]:
    """The peers on one set of weights, drawn so that texts vary with the source."""
    torch.manual_seed(0)
    hf = T5ForConditionalGeneration(T5Config(**config_of_dims(DIMS))).eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "EncDecAttention" in name:
                parameter.mul_(3)
    table = nn.Embedding(DIMS.vocab_size, DIMS.d_model)
    ours = FairseqEncoderDecoderModel(TextEncoder(table), T5Decoder(DIMS, table)).eval()
    weights = hf.state_dict()
    ours.load_state_dict({name: weights[hf_key(name)] for name in ours.state_dict()})
    stock = FairseqEncoderDecoderModel(ours.encoder, StockDecoder(ours.decoder, DIMS)).eval()
    return hf, {"ours": ours, "stock": stock}


def ways(beams: int) -> dict:
    """Name of each way to a function that gives (8, 21) ids: 20 tokens and eos."""
    hf, models = build()
    source = torch.randint(3, 32000, (SOURCES, SOURCE))
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    options = {"beam_size": beams, "max_len_b": TARGET, "min_len": TARGET}
    generators = {
        "ours": SharedSourceGenerator([models["ours"]], dictionary(), **options),
        "stock": SequenceGenerator([models["stock"]], dictionary(), **options),
    }

    def of_fairseq(name: str):
        def run() -> torch.Tensor:
            found = generators[name].generate(None, sample, bos_token=PAD)
            return torch.stack([row[0]["tokens"] for row in found])[:, :TARGET]

        return run

    def of_transformers() -> torch.Tensor:
        found = hf.generate(
            source,
            attention_mask=torch.ones_like(source),
            do_sample=False,
            num_beams=beams,
            max_new_tokens=TARGET + 1,
            min_new_tokens=TARGET,
            suppress_tokens=[PAD],
            logits_processor=[EosAtTheEnd()],
            **({"early_stopping": True, "length_penalty": 1.0} if beams > 1 else {}),
        )
        return found[:, 1 : TARGET + 1]

    return {
        "ours": of_fairseq("ours"),
        "transformers": of_transformers,
        "stock": of_fairseq("stock"),
    }


@torch.inference_mode()
def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, dict] = {}
    for beams, bars in BARS.items():
        search = "greedy" if beams == 1 else f"beam {beams}"
        competitors = ways(beams)
        texts = {name: function() for name, function in competitors.items()}
        for name, found in texts.items():
            if not torch.equal(found, texts["ours"]):
                raise SystemExit(f"{search}: {name} does not write the tokens that ours writes")
        spent = measuring.in_turn(competitors, args.rounds)
        for name, bar in bars.items():
            found = measuring.ratio(spent[name], spent["ours"])
            measured[f"{search}: {NAMES[name]}"] = measuring.judged(found, at_least=bar)
        measured[f"{search}: CPU ms per step"] = {
            name: round(1e3 * min(seconds) / (TARGET + 1), 2) for name, seconds in spent.items()
        } | {"different texts": len({tuple(row) for row in texts["ours"].tolist()})}
        measured[f"{search}: percent of the time in matrix products"] = {
            name: measuring.percent_in(PRODUCTS, function) for name, function in competitors.items()
        }
    return measuring.write_result(
        "generation", measuring.machine("transformers", "ve-fairseq"), measured
    )


if __name__ == "__main__":
    sys.exit(main())
