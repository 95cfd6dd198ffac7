"""The choices of one request, from tokens to text that may be sent."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from inference.completions.provider import EngineGone
from inference.openai import token_scores
from inference.openai.shapes import Piece
from inference.openai.token_scores import ScoredToken
from inference.wire import ChoicePiece, ChoiceTokens, Event, GenerationRequest, PromptLogprobs
from ml.text_stream import TextStream
from ml.token_logprobs import TokenLogprobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What the client wants of the choices beside their text."""

    stop: tuple[str, ...] = ()
    is_echo: bool = False
    """The text begins with the prompt."""
    is_prompt_only: bool = False
    """Nothing is generated: what the engine generates is left out, and is not counted."""
    has_logprobs: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What stands before the generated text of a choice."""

    text: str = ""
    logprobs: tuple[ScoredToken, ...] = ()


class ChoiceText:
    """One choice: its tokens are decoded, and cut at the first stop text."""

    def __init__(self, index: int, tokenizer: Tokenizer, *, wish: Wish, request: GenerationRequest) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.num_tokens = 0
        """Tokens generated so far, what ended the text included."""
        self.opening: Opening | None = None
        """What the next piece begins with."""
        self._tokenizer = tokenizer
        self._wish = wish
        self._stop_tokens = frozenset(request.stop_tokens)
        self._is_scored = request.num_logprobs is not None
        self._stream = TextStream(tokenizer, stop=wish.stop)
        self._start = 0
        self._length = 0
        self._scores: list[TokenLogprobs] = []
        self._num_told = 0
        self._logprob = 0.0

    @property
    def mean_logprob(self) -> float:
        """Of each generated token, what ended the text included. Units: nats."""
        return self._logprob / max(1, self.num_tokens)

    def take(self, event: ChoiceTokens | ChoicePiece) -> Piece | None:
        """What the event adds, or None where that is nothing yet.

        Raises: EngineGone where tokens before the event are missing, or their log-probabilities.
        """
        if self._wish.is_prompt_only:
            self.finish_reason = "length"
            return self._piece("")
        if event.offset > self.num_tokens:
            raise EngineGone("Some of the engine's tokens were lost.")
        text = self._append_text(event) if isinstance(event, ChoicePiece) else self._append_tokens(event)
        if self.finish_reason is None and event.finish_reason is not None:
            text += self._finish(event.finish_reason)
        if not text and self.finish_reason is None and self.opening is None:
            return None
        return self._piece(text)

    def _piece(self, text: str) -> Piece:
        opening, self.opening = self.opening or Opening(), None
        self._start += len(opening.text)
        self._length += len(text)
        return Piece(
            index=self.index,
            text=opening.text + text,
            num_tokens=self.num_tokens if self.finish_reason else self._stream.num_tokens,
            finish_reason=self.finish_reason,
            logprobs=(*opening.logprobs, *self._released()) if self._wish.has_logprobs else None,
        )

    def _released(self) -> list[ScoredToken]:
        """Tokens that were not told yet and whose text is out; none of what a stop text cut away."""
        told, self._num_told = range(self._num_told, self._stream.num_tokens), self._stream.num_tokens
        return [
            token_scores.score(self._tokenizer, self._scores[i], offset=self._start + offset)
            for i in told
            if (offset := self._stream.offsets[i]) < self._length
        ]

    def _append_text(self, event: ChoicePiece) -> str:
        if self._is_scored:
            raise EngineGone("The engine of this model tells no log-probabilities.")
        if event.offset < self.num_tokens:
            return ""
        self.num_tokens += event.num_tokens
        text = self._stream.push_text(event.text, num_tokens=event.num_tokens)
        if self._stream.is_stopped:
            self.finish_reason = "stop"
        return text

    def _append_tokens(self, event: ChoiceTokens) -> str:
        if self._is_scored and event.logprobs is None and event.tokens:
            raise EngineGone("The engine of this model tells no log-probabilities.")
        text = ""
        for place in range(self.num_tokens - event.offset, len(event.tokens)):
            if self.finish_reason is not None:
                break
            if event.logprobs is not None:
                self._logprob += event.logprobs[place].logprob
                self._scores.append(event.logprobs[place])
            text += self._append(event.tokens[place])
        return text

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

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, *, wish: Wish) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._held: defaultdict[int, list[ChoiceTokens | ChoicePiece]] = defaultdict(list)
        self._choices = [
            ChoiceText(index, tokenizer, wish=wish, request=request) for index in range(request.num_choices)
        ]
        if wish.is_echo:
            for prompt in range(len(request.prompts)):
                self._open(prompt, None)

    @property
    def unfinished(self) -> list[int]:
        return [choice.index for choice in self._choices if choice.finish_reason is None]

    def take(self, event: Event) -> list[Piece]:
        """What the event adds; nothing for a choice that is over, whose engine did not know it yet.

        Raises: EngineGone.
        """
        match event:
            case PromptLogprobs():
                self._open(event.prompt, event.logprobs)
                held = self._held.pop(event.prompt, [])
                return [piece for waiting in held for piece in self.take(waiting)]
            case ChoiceTokens() | ChoicePiece():
                piece = self._continue(event)
                return [] if piece is None else [piece]
        return []

    def _continue(self, event: ChoiceTokens | ChoicePiece) -> Piece | None:
        choice = self._choices[event.index]
        if choice.finish_reason is not None:
            return None
        if choice.opening and self._request.has_prompt_logprobs and not choice.opening.logprobs:
            self._hold(event)
            return None
        return choice.take(event)

    def _hold(self, event: ChoiceTokens | ChoicePiece) -> None:
        """Keep what another choice of the prompt has before the one that the prompt is scored with."""
        prompt, place = divmod(event.index, self._request.n)
        if place == 0:
            raise EngineGone("The engine of this model tells no log-probabilities of prompts.")
        self._held[prompt].append(event)

    def best(self, n: int) -> list[int]:
        """The n choices of each prompt whose tokens are likeliest on average, the best first."""
        num_candidates = self._request.n
        chosen: list[int] = []
        for first in range(0, len(self._choices), num_candidates):
            candidates = self._choices[first : first + num_candidates]
            candidates.sort(key=lambda choice: -choice.mean_logprob)
            chosen += [choice.index for choice in candidates[:n]]
        return chosen

    def _open(self, prompt: int, logprobs: Sequence[TokenLogprobs | None] | None) -> None:
        opening = _opening(self._request.prompts[prompt], self._tokenizer, logprobs)
        for choice in self._choices[prompt * self._request.n : (prompt + 1) * self._request.n]:
            if choice.num_tokens == 0 and choice.finish_reason is None:
                choice.opening = opening


def _opening(prompt: Sequence[int], tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs | None] | None) -> Opening:
    stream = TextStream(tokenizer)
    text = "".join([stream.push(token) for token in prompt] + [stream.finish()])
    if logprobs is None:
        return Opening(text=text)
    scored = (
        token_scores.given(tokenizer, token) if told is None else token_scores.score(tokenizer, told, offset=offset)
        for token, told, offset in zip(prompt, logprobs, stream.offsets, strict=True)
    )
    return Opening(text=text, logprobs=tuple(scored))
