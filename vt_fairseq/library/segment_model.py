"""What a library asks of a trained model: frames to tokens to states, and states to texts.

The video network's tokens of a segment are the same for every prompt. The encoder's states are
those of one prompt, which it reads before the video (paper, section 3.1). So both are kept: the
states of the caption prompt answer queries with the decoder alone, and from the tokens everything
else is computed without the video. Both are kept in the precision of the model's weights, and so
is what comes of them: rounded to fp16, they would change the scores of a model in fp32.

Shapes: B segments, F frames, H W pixels, T video tokens, S source, C width, K texts.
"""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fairseq.dataclass.configs import GenerationConfig

from vt_fairseq.candidates.likelihood import score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.data.dataset import pad_right
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.devices import DTYPES
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import check_finite
from vt_fairseq.models.t5 import EncoderOut
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.task_config import INPUT_OPTIONS

CAPTION = "caption"
BEAM = 5
# Prefixes of texts decoded at once; their logits take 4096 * 4 bytes each.
NODES = {"cpu": 4096, "cuda": 65536}
SEGMENTS_AT_ONCE = 256
SAMPLED_VALUES = 256  # of each tensor


@dataclass(frozen=True)
class SegmentModel:
    """A model in eval mode, with its task.

    Attributes:
        fingerprint: of its weights and of how it sees its input, see ``fingerprint``.
    """

    model: VideoTranslateModel
    task: VideoTranslateTask
    device: torch.device
    fingerprint: str

    def __post_init__(self) -> None:
        if self.task.heads is not None:
            raise UserError("a model with heads writes no texts: a library needs one without")

    @property
    def torch_dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.model.encoder.embed_tokens.weight.dtype

    @property
    def dtype(self) -> str:
        """Its name, a key of DTYPES."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.torch_dtype)

    @functools.cached_property
    def num_tokens(self) -> int:
        """T."""
        encoder: Any = self.model.encoder
        return encoder.video.num_tokens(self.task.cfg.num_frames)

    @functools.cached_property
    def max_source_tokens(self) -> int:
        """The largest S."""
        return self.task.text_options().max_source_tokens

    @functools.cached_property
    def width(self) -> int:
        """C."""
        return self.model.encoder.embed_tokens.embedding_dim

    @functools.cached_property
    def states_without_context(self) -> int:
        """The encoder's states of a segment that come before its context."""
        row, prompt = ClipRow("", ""), self.prompt(CAPTION)
        ids = self.task.text_options().source(row, prompt, self.num_tokens)
        return ids.index(self.task.tokenizer.sep) + 1

    def around(self, at: float | None) -> tuple[float | None, float | None]:
        """Start and end in seconds of what the model sees around a moment."""
        half = self.task.clip_loader(None, train=False).sampling.window_seconds / 2
        if at is None:
            return None, None
        return (max(0.0, at - half), at + half) if half < math.inf else (at, None)

    def states_of(self, path: str, start: float | None, end: float | None) -> torch.Tensor:
        """The encoder's states (S, C) of a file's segment under the caption prompt."""
        loader = self.task.clip_loader(None, train=False)
        frames = loader(ClipRow("", path, start, end), None)
        tokens = self.video_tokens(torch.from_numpy(frames[None]))
        encoded = self.encode(self.inputs(tokens, self.prompt(CAPTION), [""]))
        return encoded["encoder_out"][0][:, 0].cpu()

    def prompt(self, name: str) -> Prompt:
        """The prompt of that name; raise UserError where there is none."""
        return self.task.selected_prompts(name)[0]

    @torch.inference_mode()
    def video_tokens(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, F, H, W, 3) uint8 -> (B, T, C)."""
        encoder: Any = self.model.encoder
        return encoder.video(frames.to(self.device, non_blocking=True))

    def inputs(
        self, tokens: torch.Tensor, prompt: Prompt, contexts: Sequence[str], question: str = ""
    ) -> dict[str, torch.Tensor]:
        """What the encoder takes, for the video tokens (B, T, C) of B segments."""
        text = self.task.text_options()
        rows = [ClipRow("", "", context=one or None, question=question) for one in contexts]
        sources = [text.source(row, prompt, tokens.size(1)) for row in rows]
        src_tokens, src_lengths = (x.to(self.device) for x in pad_right(sources))
        return {"src_tokens": src_tokens, "src_lengths": src_lengths, "video_tokens": tokens}

    @torch.inference_mode()
    def encode(self, inputs: dict[str, torch.Tensor]) -> EncoderOut:
        """The encoder's output for ``inputs``."""
        return self.model.encoder(**inputs)

    def texts(
        self, inputs: dict[str, torch.Tensor], prompt: Prompt, encoded: EncoderOut | None = None
    ) -> list[tuple[str, float]]:
        """The best text of beam search for each segment, with its log-likelihood.

        ``encoded`` is the encoder's output for ``inputs``, where it has run already.
        """
        config = GenerationConfig(beam=BEAM, nbest=1, max_len_b=prompt.max_target_tokens)
        generator = self.task.build_generator([self.model], config)
        missing = torch.zeros(len(inputs["src_tokens"]), dtype=torch.bool)
        given = inputs if encoded is None else {**inputs, "encoder_out": encoded}
        found = self.task.generate(generator, {"net_input": given, "missing": missing})
        decode = self.task.tokenizer.decode
        texts = [
            (decode(best["tokens"].tolist()), float(best["positional_scores"].float().sum()))
            for best, *_ in found
        ]
        check_finite([score for _, score in texts], "among those just read")
        return texts

    def log_likelihoods(
        self, encoded: EncoderOut, tree: PrefixTree, length_normalize: bool
    ) -> np.ndarray:
        """(B, K) float64 of the texts of ``tree`` under B segments."""
        nodes = NODES.get(self.device.type, NODES["cpu"])
        return np.stack(score_candidates(self.model, encoded, [tree], nodes, length_normalize))

    def segments_at_once(self, tree: PrefixTree) -> int:
        """How many segments fill the decoder with the prefixes of ``tree``."""
        nodes = NODES.get(self.device.type, NODES["cpu"])
        return max(16, min(SEGMENTS_AT_ONCE * nodes // NODES["cpu"], nodes // tree.num_inner))


def fingerprint(state: dict[str, torch.Tensor], task: VideoTranslateTask) -> str:
    """SHA-256 in hexadecimal of what a model's answers depend on: weights, vocabulary, input.

    Of each tensor SAMPLED_VALUES values are taken, evenly spaced: all of them would have to be read
    from the disk, and training changes them all.
    """
    digest = hashlib.sha256(task.tokenizer.model_proto)
    for name in INPUT_OPTIONS:
        digest.update(f"{name}={task.cfg[name]}\0".encode())
    for name in sorted(state):
        values = state[name].detach().flatten()
        step = max(1, len(values) // SAMPLED_VALUES)
        digest.update(f"{name} {tuple(state[name].shape)}\0".encode())
        digest.update(values[::step][:SAMPLED_VALUES].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def to_bytes(states: torch.Tensor) -> bytes:
    """The numbers of a tensor, in its precision."""
    return states.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes()


def from_bytes(data: bytes, width: int, dtype: torch.dtype) -> torch.Tensor | None:
    """(n, width) of ``dtype``, n >= 1; None for another number of bytes and values not finite."""
    if not data or len(data) % (width * dtype.itemsize):
        return None
    states = torch.frombuffer(bytearray(data), dtype=dtype).view(-1, width)
    return states if bool(states.isfinite().all()) else None


def padded(rows: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> EncoderOut:
    """Encoder states (S, C) of B segments as the encoder gives them for all together."""
    states = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    padding = torch.arange(states.size(1)) >= lengths.unsqueeze(1)
    return {
        "encoder_out": [states.to(device, dtype).transpose(0, 1)],
        "encoder_padding_mask": [padding.to(device)],
    }


def chunks(values: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` values, the last one of the rest."""
    held: list[Any] = []
    for value in values:
        held.append(value)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
