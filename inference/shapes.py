"""OpenAI's response objects, as JSON-ready data. A field that OpenAI requires is there even where it is null."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.choices import Piece
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
        choices = [
            {"index": answer.index, "text": answer.text, "logprobs": None, "finish_reason": answer.finish_reason}
            for answer in answers
        ]
        return {**head.to_json("text_completion"), "choices": choices, "usage": usage.to_json()}

    def opening(self, head: Head, num_choices: int) -> list[Json]:
        return []

    def chunk(self, head: Head, piece: Piece) -> Json:
        choice = {
            "index": piece.index,
            "text": piece.text,
            "logprobs": None,
            "finish_reason": piece.finish_reason,
        }
        return {**head.to_json("text_completion"), "choices": [choice]}

    def closing(self, head: Head, usage: Usage) -> Json:
        return {**head.to_json("text_completion"), "choices": [], "usage": usage.to_json()}


class ChatShape:
    """POST chat/completions."""

    def whole(self, head: Head, answers: Sequence[Answer], usage: Usage) -> Json:
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
            for answer in answers
        ]
        return {**head.to_json("chat.completion"), "choices": choices, "usage": usage.to_json()}

    def opening(self, head: Head, num_choices: int) -> list[Json]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(head, index, delta, None) for index in range(num_choices)]

    def chunk(self, head: Head, piece: Piece) -> Json:
        return self._chunk(head, piece.index, {"content": piece.text} if piece.text else {}, piece.finish_reason)

    def closing(self, head: Head, usage: Usage) -> Json:
        return {**head.to_json("chat.completion.chunk"), "choices": [], "usage": usage.to_json()}

    def _chunk(self, head: Head, index: int, delta: Json, finish_reason: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**head.to_json("chat.completion.chunk"), "choices": [choice]}


def model_json(checkpoint: Checkpoint) -> Json:
    """OpenAI's model object for a checkpoint that `catalogue` serves."""
    if checkpoint.published_at is None:
        raise ValueError(f"{checkpoint} is not published")
    return {
        "id": checkpoint.experiment.slug,
        "object": "model",
        "created": int(checkpoint.published_at.timestamp()),
        "owned_by": "fai",
    }
