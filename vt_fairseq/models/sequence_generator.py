"""fairseq's generator without its copies: the beams of a clip share the encoder's output.

fairseq repeats the encoder's output for every beam before the first step and reorders it at every
later one. Our decoder takes several targets per source, and its cache follows their order.

What one model writes by greedy or beam search takes steps of fixed shapes on a GPU, which the host
does not wait for; samples, ensembles and given beginnings take fairseq's steps.
"""

import logging
from typing import Any

import torch
from fairseq.search import BeamSearch, Sampling, Search
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator

from vt_fairseq.errors import UserError
from vt_fairseq.models.best_tokens import best_continuations, forbid_repetitions
from vt_fairseq.models.fixed_search import search_log
from vt_fairseq.models.half_precision_linear import is_partitioned
from vt_fairseq.models.hypotheses import DIVERGED, FORBIDDEN, SearchLog
from vt_fairseq.models.search_step import Search as FixedSearch
from vt_fairseq.models.t5 import T5Decoder

logger = logging.getLogger(__name__)


class SharedSources(EnsembleModel):
    """Models whose decoders' caches hold all that they need of the encoder's output.

    Attributes:
        no_repeat: no sequence of so many tokens appears twice in a text; 0: any may.
    """

    no_repeat = 0

    def forward_encoder(self, net_input: dict[str, Any]) -> list[dict[str, list[torch.Tensor]]]:
        """The models' outputs; of one model that of ``encoder_out``, where it has run before."""
        given = net_input.get("encoder_out")
        return super().forward_encoder(net_input) if given is None else [given]

    def reorder_encoder_out(
        self, encoder_outs: list[dict[str, list[torch.Tensor]]], new_order: torch.Tensor
    ) -> list[dict[str, list[torch.Tensor]]]:
        """The outputs unchanged, one row per source: only the caches are read, and reordered."""
        return encoder_outs

    def forward_decoder(self, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """fairseq's; raises UserError for scores that are not numbers.

        The generator would take them for impossible tokens, and end in an assertion when none is
        left. One column is enough: a softmax over a row with such a value has no other.
        """
        found = super().forward_decoder(tokens, *args, **kwargs)
        if found[0][:, 0].isnan().any():
            raise UserError(DIVERGED)
        if not self.no_repeat:
            return found
        last = torch.tensor([tokens.size(1) - 1], device=tokens.device)
        return forbid_repetitions(found[0], tokens, last, self.no_repeat), found[1]


class BlockwiseBeamSearch(BeamSearch):
    """BeamSearch that looks for the best continuations among the best blocks of the vocabulary."""

    def step(
        self,
        step: int,
        lprobs: torch.Tensor,
        scores: torch.Tensor,
        prev_output_tokens: torch.Tensor | None = None,
        original_batch_idxs: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, beams, V) log-likelihoods -> what BeamSearch returns: the 2 * beams best of each row.

        These are scores, tokens and beams, (B, 2 * beams) each.
        """
        return best_continuations(lprobs, scores[:, :, step - 1] if step > 0 else None)


class PossibleSampling(Sampling):
    """Sampling in which a text without a next token never ends, while others go on.

    Such a text may also be one that has ended: fairseq draws on, and throws away what it draws.
    """

    def step(
        self, step: int, lprobs: torch.Tensor, *args: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Calls fairseq's method; a text without a next token gets pad and a score of -inf."""
        impossible = lprobs.amax(-1).eq(-torch.inf)  # (B, beams)
        lprobs[..., self.pad].masked_fill_(impossible, 0.0)
        scores, tokens, beams = super().step(step, lprobs, *args)
        return scores.masked_fill(impossible, -torch.inf), tokens, beams


class SharedSourceGenerator(SequenceGenerator):
    """fairseq's generator for models of this project; takes and gives what fairseq's does.

    Attributes:
        fixed_shapes: whether steps have fixed shapes where that is possible; None: on a GPU. On a
            CPU they save nothing, and go on with texts that have ended.
    """

    search: Search
    fixed_shapes: bool | None = None

    def __init__(
        self,
        models: list[torch.nn.Module],
        *args: Any,
        no_repeat_ngram_size: int = 0,
        **kwargs: Any,
    ):
        sources = SharedSources(models)
        sources.no_repeat = no_repeat_ngram_size
        super().__init__(sources, *args, **kwargs)
        self._said = False
        if type(self.search) is BeamSearch:
            self.search = BlockwiseBeamSearch(self.tgt_dict)
        elif type(self.search) is Sampling:
            top_k, top_p = self.search.sampling_topk, self.search.sampling_topp
            self.search = PossibleSampling(self.tgt_dict, top_k, top_p)
        # Otherwise an assertion, where none of a source's beams can go on.
        self.search.stop_on_max_len = True

    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: torch.Tensor | None = None,
        constraints: torch.Tensor | None = None,
        bos_token: int | None = None,
    ) -> list[list[dict[str, Any]]]:
        if not self._takes_fixed_shapes(prefix_tokens, constraints):
            texts = super()._generate(sample, prefix_tokens, constraints, bos_token)
            if not all(texts):
                raise UserError(FORBIDDEN)
            return texts
        decoder = self.model.single_model.decoder
        net_input = sample["net_input"]
        longest = int(self.max_len_a * net_input["src_tokens"].size(1) + self.max_len_b)
        search = FixedSearch(
            beams=self.beam_size,
            least=self.min_len,
            most=min(longest, self.max_len - 1),
            pad=self.pad,
            eos=self.eos,
            unk=self.unk,
            unk_penalty=self.unk_penalty,
            no_repeat=self.model.no_repeat,
            temperature=self.temperature,
        )
        start = self.eos if bos_token is None else bos_token
        with torch.inference_mode():
            encoder_out = self.model.forward_encoder(net_input)[0]
            log = SearchLog(search_log(decoder, encoder_out, search, start), self.eos)
        power = self.len_penalty if self.normalize_scores else 0.0
        rows = net_input["src_tokens"].size(0)
        return [log.texts_of(row, power) for row in range(rows)]

    def _takes_fixed_shapes(self, prefix_tokens: Any, constraints: Any) -> bool:
        """Whether a search does; where captured steps were asked for, the log says why not."""
        decoder = getattr(self.model.single_model, "decoder", None)
        if not isinstance(decoder, T5Decoder) or is_partitioned(decoder.relative_bias):
            return False
        wanted = self.fixed_shapes
        if wanted is None:
            on_gpu = decoder.embed_tokens.weight.device.type == "cuda"
            wanted = decoder.graphs is not None or on_gpu
        reasons = {
            "several models": self.model.models_size > 1 or self.lm_model is not None,
            "a search that draws": type(self.search) is not BlockwiseBeamSearch,
            "given beginnings": prefix_tokens is not None or constraints is not None,
            "a limit for each source": self.match_source_len,
            "suppressed tokens": self.token_indices_to_suppress is not None,
            "a tiny vocabulary": 2 * self.beam_size >= self.vocab_size,
        }
        reason = next((reason for reason, is_so in reasons.items() if is_so), None)
        if reason and decoder.graphs is not None and not self._said:
            self._said = True
            logger.info("texts are written without CUDA graphs, for %s", reason)
        return wanted and reason is None
