"""OpenAI's response objects, as JSON-ready data. A field that OpenAI requires is there even where it is null."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.openai.token_scores import ScoredToken, chat_logprobs, text_logprobs
from training.models import Checkpoint

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the bill counts."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One choice, whole."""

    index: int
    text: str
    finish_reason: str
    logprobs: tuple[ScoredToken, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Text of one choice that is ready to be sent."""

    index: int
    text: str
    num_tokens: int
    """Tokens of the choice whose text has been handed out with this piece, or before; an echoed prompt has none."""
    finish_reason: str | None
    logprobs: tuple[ScoredToken, ...] | None = None
    """Of the tokens whose text this piece completes; None where the client asked for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What every object of one response says alike."""

    request_id: str
    created: int
    model: str
    checkpoint_sha256: str

    def to_json(self, kind: str) -> Json:
        return {
            "id": self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"fp_{self.checkpoint_sha256[:12]}",
        }


class Shape(Protocol):
    """How an endpoint writes its objects."""

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Json: ...

    def opening(self, head: Head, num_choices: int) -> list[Json]:
        """Chunks before the first text."""

    def chunk(self, head: Head, piece: Piece) -> Json: ...

    def closing(self, head: Head, usage: Usage) -> Json:
        """The chunk that carries the usage, where the client asked for it."""


class TextShape:
    """POST completions."""

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Json:
        choices = [self._choice(answer) for answer in answers]
        return {**head.to_json("text_completion"), "choices": choices, "usage": usage.to_json()}

    def opening(self, head: Head, num_choices: int) -> list[Json]:
        return []

    def chunk(self, head: Head, piece: Piece) -> Json:
        return {**head.to_json("text_completion"), "choices": [self._choice(piece)]}

    def closing(self, head: Head, usage: Usage) -> Json:
        return {**head.to_json("text_completion"), "choices": [], "usage": usage.to_json()}

    def _choice(self, part: Answer | Piece) -> Json:
        return {
            "index": part.index,
            "text": part.text,
            "logprobs": None if part.logprobs is None else text_logprobs(part.logprobs),
            "finish_reason": part.finish_reason,
        }


class ChatShape:
    """POST chat/completions."""

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Json:
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None if answer.logprobs is None else chat_logprobs(answer.logprobs),
                "finish_reason": answer.finish_reason,
            }
            for answer in answers
        ]
        return {**head.to_json("chat.completion"), "choices": choices, "usage": usage.to_json()}

    def opening(self, head: Head, num_choices: int) -> list[Json]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(head, index, delta, None) for index in range(num_choices)]

    def chunk(self, head: Head, piece: Piece) -> Json:
        delta = {"content": piece.text} if piece.text else {}
        logprobs = None if piece.logprobs is None else chat_logprobs(piece.logprobs)
        return self._chunk(head, piece.index, delta, piece.finish_reason, logprobs)

    def closing(self, head: Head, usage: Usage) -> Json:
        return {**head.to_json("chat.completion.chunk"), "choices": [], "usage": usage.to_json()}

    def _chunk(
        self, head: Head, index: int, delta: Json, finish_reason: str | None, logprobs: Json | None = None
    ) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**head.to_json("chat.completion.chunk"), "choices": [choice]}


def model_json(checkpoint: Checkpoint, *, name: str | None = None) -> Json:
    """OpenAI's model object for a checkpoint that `catalogue` serves, under its experiment's slug or another name."""
    if checkpoint.published_at is None:
        raise ValueError(f"{checkpoint} is not published")
    return {
        "id": name or checkpoint.experiment.slug,
        "object": "model",
        "created": int(checkpoint.published_at.timestamp()),
        "owned_by": "fai",
    }
