"""The source sequence: prompt, video, text and context in one row of ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError


@dataclass(frozen=True)
class SourceTemplate:
    """Builds the encoder's input ids: ``[CLS] prompt [VIDEO]*T text [SEP] context``.

    (Paper, section 3.1 and appendix A.2.) A missing video, text or context is simply not there.

    Attributes:
        max_source_tokens: longest source; the context is cut first, then the text.
    """

    tokenizer: Tokenizer
    max_source_tokens: int = 512

    def build(
        self,
        prompt: Sequence[int],
        num_video_tokens: int,
        text: Sequence[int],
        context: Sequence[int] = (),
    ) -> list[int]:
        """Ids of one source; raise UserError when prompt and video alone are too long."""
        t = self.tokenizer
        head = [t.cls, *prompt, *[t.video] * num_video_tokens]
        room = self.max_source_tokens - len(head) - 1
        if room < 0:
            raise UserError(
                f"prompt and video take {len(head) + 1} source tokens, more than "
                f"--max-source-tokens {self.max_source_tokens}: shorten the prompt or raise it"
            )
        text = list(text)[:room]
        return [*head, *text, t.sep, *list(context)[: room - len(text)]]
