"""The multimodal encoder-decoder (paper, section 3.1 and figure 1) as fairseq models.

Shapes: B rows, V <= B rows with video, F frames, T video tokens, S source, L target, C width.
"""

from typing import Any

import torch
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel
from torch import nn

from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.models.heads import ClassHeads
from vt_fairseq.models.masked_rows import rows_at
from vt_fairseq.models.r2plus1d import Normalize
from vt_fairseq.models.t5 import EncoderOut, T5Decoder, T5Dims, T5Encoder
from vt_fairseq.models.video_backbones import VideoNetwork, colors

# New video tokens are several times as large as new word embeddings: the video counts from the
# first update on. With a pretrained T5 vt-init makes them as large as its words.
VIDEO_TOKEN_SCALE = 4.0


class VideoTokens(nn.Module):
    """Frames to T tokens of the transformer's width: network, spatial mean, linear (section 3.1).

    Args:
        network: frames to features.
        width: C.
        pooling: "none", or "temporal" for one token per clip (Table 7b).
    """

    def __init__(self, network: VideoNetwork, width: int, pooling: str):
        super().__init__()
        self.normalize = Normalize(*colors(network))
        self.network = network
        self.projection = nn.Linear(network.width, width)
        nn.init.normal_(self.projection.weight, std=VIDEO_TOKEN_SCALE * network.width**-0.5)
        nn.init.zeros_(self.projection.bias)
        self.pooling = pooling

    def num_tokens(self, frames: int) -> int:
        """T for a clip of ``frames`` frames."""
        return 1 if self.pooling == "temporal" else self.network.num_tokens(frames)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(V, F, H, W, 3) uint8 -> (V, T, C).

        Raises ValueError where the network's features have another shape than it says.
        """
        features = self.network(self.normalize(video, self.projection.weight.dtype))
        expected = (len(video), self.network.num_tokens(video.size(1)), self.network.width)
        if features.shape != expected:
            raise ValueError(
                f"the video network gave features of shape {tuple(features.shape)}, expected "
                f"{expected}: clips, num_tokens({video.size(1)}), width"
            )
        if self.pooling == "temporal":
            features = features.mean(dim=1, keepdim=True)
        return self.projection(features)


class MultimodalEncoder(FairseqEncoder):
    """One T5 encoder over ``[CLS] prompt video text [SEP] context </s>``.

    Args:
        embed_tokens: the embedding table that encoder and decoder share.
        video: frames to tokens.
        t5: sizes of the transformer.
        video_id: id of [VIDEO], in place of which the source gets the video tokens.

    Attributes:
        video_only: whether the output is the mean of each row's video tokens, as one state.
    """

    video_only = False

    def __init__(self, embed_tokens: nn.Embedding, video: VideoTokens, t5: T5Dims, video_id: int):
        super().__init__(None)
        self.embed_tokens = embed_tokens
        self.video = video
        self.transformer = T5Encoder(t5)
        self.video_id = video_id

    def forward(
        self,
        src_tokens: torch.Tensor,
        src_lengths: torch.Tensor | None = None,
        video: torch.Tensor | None = None,
        clip_of_row: torch.Tensor | None = None,
        video_tokens: torch.Tensor | None = None,
        blank_video: torch.Tensor | None = None,
    ) -> EncoderOut:
        """(B, S) ids and (V, F, H, W, 3) uint8 -> fairseq's encoder output.

        The r-th row that has [VIDEO] tokens takes the r-th clip, or clip ``clip_of_row[r]`` where
        rows share clips. Rows without them, and batches without ``video``, are text only.
        ``video_tokens`` (V, T, C) replaces ``video`` where the video network has run before. Of
        ``blank_video`` (1, F, H, W, 3) nothing is seen: see ``zero_of_blank``.
        ``src_lengths`` is not used; fairseq passes it.
        """
        states = self.embed_tokens(src_tokens)
        if video is not None:
            video_tokens = self.video(video)
        if video_tokens is not None:
            is_video = src_tokens.eq(self.video_id)
            if clip_of_row is not None:
                video_tokens = video_tokens.index_select(0, clip_of_row)
            tokens = rows_at(is_video, video_tokens.to(states.dtype).flatten(0, 1))
            states = torch.where(is_video.unsqueeze(-1), tokens, states)
        if blank_video is not None:
            states = states + self.zero_of_blank(blank_video).to(states.dtype)
        padding = src_tokens.eq(PAD)
        if self.video_only:
            is_video = src_tokens.eq(self.video_id).unsqueeze(-1)
            mean = (states * is_video).sum(dim=1) / is_video.sum(dim=1).clamp(min=1)
            return {"encoder_out": [mean.unsqueeze(0)], "encoder_padding_mask": [padding[:, :1]]}
        states = self.transformer(states, padding)
        return {
            "encoder_out": [states.transpose(0, 1)],
            "encoder_padding_mask": [padding],
        }

    def zero_of_blank(self, video: torch.Tensor) -> torch.Tensor:
        """Zero, from a run of the video network that leaves its statistics as they are.

        Its gradients are zero, too. Other processes may wait for it: ZeRO-3 gathers the network's
        parameters from all of them.
        """
        modes = [(module, module.training) for module in self.video.modules()]
        self.video.eval()
        tokens = self.video(video)
        for module, training in modes:
            module.training = training
        return tokens[:0].sum()

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: torch.Tensor) -> EncoderOut:
        """Rows in ``new_order`` (which may repeat or leave out rows)."""
        return {
            **encoder_out,
            "encoder_out": [x.index_select(1, new_order) for x in encoder_out["encoder_out"]],
            "encoder_padding_mask": [
                x.index_select(0, new_order) for x in encoder_out["encoder_padding_mask"]
            ],
        }

    def max_positions(self) -> int:
        """T5's positions are relative; the task limits the source."""
        return int(1e6)


class VideoTranslateModel(FairseqEncoderDecoderModel):
    """f(action, video, noisy text) -> text, or classes where it has ``heads``."""

    def __init__(
        self, encoder: MultimodalEncoder, decoder: T5Decoder, heads: ClassHeads | None = None
    ):
        super().__init__(encoder, decoder)
        self.heads = heads
        self._visited: list[nn.Module] = []
        self._modes: list[bool] = []
        self._listeners: list[Any] | None = None

    def forward(
        self,
        src_tokens: torch.Tensor,
        prev_output_tokens: torch.Tensor | None = None,
        src_lengths: torch.Tensor | None = None,
        video: torch.Tensor | None = None,
        clip_of_row: torch.Tensor | None = None,
        blank_video: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict] | dict[str, torch.Tensor]:
        """Logits (B, L, vocabulary) fp32 under teacher forcing; see the encoder for the inputs.

        Without ``prev_output_tokens`` it returns the heads' logits, see ``class_logits``.
        """
        encoder_out = self.encoder(
            src_tokens,
            src_lengths=src_lengths,
            video=video,
            clip_of_row=clip_of_row,
            blank_video=blank_video,
        )
        if prev_output_tokens is None:
            return self.class_logits(encoder_out)
        return self.decoder(prev_output_tokens, encoder_out=encoder_out)

    def train(self, mode: bool = True) -> "VideoTranslateModel":
        """Set the mode of all modules, frozen ones excepted; those that are in it are not visited.

        fairseq calls this and ``set_num_updates`` for every batch, where visiting a thousand
        modules took half of an update's time in Python.
        """
        modes = [module.training for module in self._visited]
        if not modes or mode != self.training or modes != self._modes:
            super().train(mode)
            self._visited = list(self.modules())
            self._modes = [module.training for module in self._visited]
            self._listeners = None
        return self

    def set_num_updates(self, num_updates: int) -> None:
        """Tell all modules that have such a method."""
        if self._listeners is None:
            pass_on = self, self.encoder, self.decoder  # and would visit everything again
            self._listeners = [
                m for m in self.modules() if hasattr(m, "set_num_updates") and m not in pass_on
            ]
        for module in self._listeners:
            module.set_num_updates(num_updates)

    def class_logits(self, encoder_out: EncoderOut) -> dict[str, torch.Tensor]:
        """The encoder's output for B rows -> logits (B, classes) fp32 of each head.

        ``answer`` has (B, 1): the score of each row's question with its one candidate.
        """
        if self.heads is None:
            raise ValueError("expected a model with heads")
        return self.heads(encoder_out["encoder_out"][0][0])

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Called by fairseq-generate, which forgets bf16; see ``fold``."""
        super().prepare_for_inference_(cfg)
        if cfg.common.bf16:
            self.bfloat16()
        self.fold()

    def fold(self) -> None:
        """Let the video network fold its BatchNorms; the model cannot be trained afterwards."""
        network = self.encoder.video.network
        if hasattr(network, "fold"):
            network.fold()
