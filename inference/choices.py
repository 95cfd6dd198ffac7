"""The choices of one request, from tokens to text that may be sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from inference.provider import EngineGone
from inference.wire import ChoiceTokens, GenerationRequest
from ml.text_stream import TextStream


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Text of one choice that is ready to be sent."""

    index: int
    text: str
    num_tokens: int
    """Tokens of the choice whose text has been handed out with this piece, or before."""
    finish_reason: str | None


class ChoiceText:
    """One choice: its tokens are decoded, and cut at the first stop text."""

    def __init__(self, index: int, tokenizer: Tokenizer, *, stop: Sequence[str], stop_tokens: Sequence[int]) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.num_tokens = 0
        """Tokens generated so far, what ended the text included."""
        self._stop_tokens = frozenset(stop_tokens)
        self._stream = TextStream(tokenizer, stop=stop)

    def take(self, event: ChoiceTokens) -> Piece | None:
        """What the event adds, or None where that is nothing yet.

        Raises: EngineGone where tokens before the event are missing.
        """
        if event.offset > self.num_tokens:
            raise EngineGone("Some of the engine's tokens were lost.")
        text = ""
        for token in event.tokens[self.num_tokens - event.offset :]:
            if self.finish_reason is not None:
                break
            text += self._append(token)
        if self.finish_reason is None and event.finish_reason is not None:
            text += self._finish(event.finish_reason)
        if not text and self.finish_reason is None:
            return None
        num_tokens = self.num_tokens if self.finish_reason else self._stream.num_tokens
        return Piece(index=self.index, text=text, num_tokens=num_tokens, finish_reason=self.finish_reason)

    def _append(self, token: int) -> str:
        self.num_tokens += 1
        if token in self._stop_tokens:
            return self._finish("stop")
        text = self._stream.push(token)
        if self._stream.is_stopped:
            self.finish_reason = "stop"
        return text

    def _finish(self, reason: str) -> str:
        text = self._stream.finish()
        self.finish_reason = "stop" if self._stream.is_stopped else reason
        return text


class Choices:
    """All choices of a request."""

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, *, stop: Sequence[str]) -> None:
        self._choices = [
            ChoiceText(index, tokenizer, stop=stop, stop_tokens=request.stop_tokens)
            for index in range(request.num_choices)
        ]

    @property
    def unfinished(self) -> list[int]:
        return [choice.index for choice in self._choices if choice.finish_reason is None]

    def take(self, event: ChoiceTokens) -> Piece | None:
        """What the event adds; None also for a choice that is over, whose engine did not know it yet."""
        choice = self._choices[event.index]
        return None if choice.finish_reason is not None else choice.take(event)
