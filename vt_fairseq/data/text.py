"""The source sequence: prompt, video, text and context in one row of ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.text_noise import TextNoise
from vt_fairseq.data.tokenizer import EOS, Tokenizer
from vt_fairseq.errors import UserError

# The second is that of models of version 0.1: the question in the prompt, no end of sequence.
PAPER, EARLY = SOURCE_LAYOUTS = ("paper", "early")


@dataclass(frozen=True)
class TextOptions:
    """How a row's texts become the encoder's input ids.

    The source is ``[CLS] prompt [VIDEO]*T text [SEP] context </s>`` (paper, section 3.1 and
    appendix A.2; T5's inputs end in ``</s>``). The text begins with the row's question where that
    is to be answered (4.2.4). A missing video, text or context is simply not there.

    Attributes:
        noise: training noise on the target text.
        max_source_tokens: longest source; the context is cut first, then the text.
        test_mask_tokens: [MASK] tokens that stand for the absent text at test (0: no text).
        context: whether the rows' context (subtitles) goes into the source.
        layout: one of SOURCE_LAYOUTS.
    """

    tokenizer: Tokenizer
    noise: TextNoise
    max_source_tokens: int = 512
    test_mask_tokens: int = 0
    context: bool = True
    layout: str = PAPER

    def source(
        self,
        row: ClipRow,
        prompt: Prompt,
        num_video_tokens: int,
        text: Sequence[int] | None = None,
        candidate: str = "",
    ) -> list[int]:
        """Source ids; after [SEP] come the candidate and the row's context, [SEP] between them.

        Args:
            num_video_tokens: T; 0 for a row without video.
            text: ids; None is the absent text at test.

        Raises:
            UserError: prompt and video alone are longer than ``max_source_tokens``.
        """
        t = self.tokenizer
        head = [t.cls, *t.encode(prompt.text_for(row)), *[t.video] * num_video_tokens]
        end = [EOS] if self.layout == PAPER else []
        fixed = len(head) + 1 + len(end)  # and [SEP]
        room = self.max_source_tokens - fixed
        if room < 0:
            raise UserError(
                f"prompt and video take {fixed} source tokens, more than the longest source of "
                f"{self.max_source_tokens} (max_source_tokens): shorten the prompt or allow longer "
                "sources"
            )
        if text is None:
            text = [t.mask] * self.test_mask_tokens
        question = t.encode(prompt.question_for(row)) if self.layout == PAPER else []
        text = [*question, *text][:room]
        context = t.encode(row.context) if row.context and self.context else []
        if candidate:
            context = [*t.encode(candidate), *([t.sep, *context] if context else [])]
        return [*head, *text, t.sep, *context[: room - len(text)], *end]
