"""What the web process and an engine say to each other through Redis. Tokens only: the web process knows text.

| key                             | holds                                                                    |
|---------------------------------|--------------------------------------------------------------------------|
| fai:engine:requests:{model}     | list of requests that no engine has taken                                |
| fai:engine:stream:{request_id}  | stream of events: started once, then tokens, or failed                   |
| fai:engine:cancel:{request_id}  | set of the choices that nobody reads any more                            |
| fai:engine:alive:{engine_id}    | an EngineStatus; gone seconds after the engine is                        |
| fai:engine:engines              | set of the engines that may be alive                                     |
| fai:engine:wanted               | sorted set: older checkpoints by when somebody last asked for them       |
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ml.token_logprobs import TokenLogprobs

ENGINES_KEY = "fai:engine:engines"
WANTED_KEY = "fai:engine:wanted"
EVENT_FIELD = "event"
STREAM_SECONDS = 600
"""An event stream that nobody deletes, since its reader died, is gone after so long without an event."""
ALIVE_SECONDS = 5
BEAT_SECONDS = 1
CANCEL_SECONDS = 900
MAX_TRIES = 3
"""So many engines are given a request, one after the other, where one is lost before it told anything."""
MAX_QUEUED_REQUESTS = 256
"""Per model; beyond it a client is told to come back later."""


def try_ids(request_id: str) -> list[str]:
    """What the request is called at one engine after the other.

    Each try has keys of its own: an engine that was thought to be dead cannot write among another one's events.
    """
    return [request_id + (f"~{number}" if number else "") for number in range(MAX_TRIES)]


def queue_key(model: str) -> str:
    return f"fai:engine:requests:{model}"


def stream_key(request_id: str) -> str:
    return f"fai:engine:stream:{request_id}"


def cancel_key(request_id: str) -> str:
    return f"fai:engine:cancel:{request_id}"


def alive_key(engine_id: str) -> str:
    return f"fai:engine:alive:{engine_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """Prompts to continue: choice i continues prompt i // n with seed + i."""

    request_id: str
    model: str
    prompts: tuple[tuple[int, ...], ...]
    n: int
    max_tokens: int
    stop_tokens: tuple[int, ...]
    """Tokens that end a choice; the one that did is its last token."""
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, and what is added to their logits."""
    num_logprobs: int | None = None
    """How many of the likeliest tokens are told beside each generated one; None: no log-probabilities at all."""
    has_prompt_logprobs: bool = False
    """Whether the prompts' own tokens are scored as well, once per prompt."""
    queued_at: float = 0.0
    """Units: seconds since 1970."""
    trace: str = ""
    """The HTTP request's id, which every line of every process's log carries."""

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many choices continue it."""
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def max_completion_tokens(self) -> int:
        return self.num_choices * self.max_tokens

    def encode(self) -> str:
        # dataclasses.asdict copies every token of the prompts.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def decode(cls, data: bytes | str) -> "GenerationRequest":
        values = json.loads(data)
        return cls(
            **{
                **values,
                "prompts": tuple(tuple(prompt) for prompt in values["prompts"]),
                "stop_tokens": tuple(values["stop_tokens"]),
                "logit_bias": tuple((token, bias) for token, bias in values["logit_bias"]),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """An engine took the request, and continues it with this checkpoint to the end."""

    engine_id: str
    checkpoint_id: int
    checkpoint_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceTokens:
    """Tokens of one choice; `offset` is how many it had before, so that a repeated event is recognised."""

    index: int
    offset: int
    tokens: tuple[int, ...]
    finish_reason: str | None = None
    """stop: the last token is a stop token; length: max_tokens are reached; None: more follow."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One for each of the tokens, where the request asks for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoicePiece:
    """Text of one choice, from an engine that tells no tokens; `offset` counts tokens as in ChoiceTokens."""

    index: int
    offset: int
    text: str
    num_tokens: int
    """Of the piece."""
    finish_reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLogprobs:
    """Of one prompt, before its choices' tokens; the first token has nothing before it, and so None."""

    prompt: int
    logprobs: tuple[TokenLogprobs | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The engine gives the request up."""

    message: str
    param: str | None = None
    """The field of the request that this engine cannot do, where that is why."""


Event = Started | PromptLogprobs | ChoiceTokens | ChoicePiece | Failed
_EVENTS: dict[str, type[Event]] = {
    "started": Started,
    "prompt": PromptLogprobs,
    "tokens": ChoiceTokens,
    "piece": ChoicePiece,
    "failed": Failed,
}
_NAMES = {cls: name for name, cls in _EVENTS.items()}


def encode_events(events: list[Event]) -> str:
    """Events of one request and one engine step as one stream entry."""
    return json.dumps([[_NAMES[type(event)], dataclasses.asdict(event)] for event in events], separators=(",", ":"))


def merge(events: Iterable[Event]) -> list[Event]:
    """The same in fewer events: tokens of a choice that follow each other are told at once."""
    merged: list[Event] = []
    places: dict[int, int] = {}
    for event in events:
        if isinstance(event, ChoiceTokens):
            place = places.setdefault(event.index, len(merged))
            joined = None if place == len(merged) else _join(merged[place], event)
            if joined is not None:
                merged[place] = joined
                continue
            places[event.index] = len(merged)
        merged.append(event)
    return merged


def _join(first: Event, second: ChoiceTokens) -> ChoiceTokens | None:
    """None where the second does not go on where the first ends."""
    assert isinstance(first, ChoiceTokens)
    if second.offset != first.offset + len(first.tokens) or (first.logprobs is None) != (second.logprobs is None):
        return None
    logprobs = None if first.logprobs is None or second.logprobs is None else first.logprobs + second.logprobs
    return dataclasses.replace(second, offset=first.offset, tokens=first.tokens + second.tokens, logprobs=logprobs)


def decode_events(data: bytes | str) -> list[Event]:
    return [_decode_event(name, values) for name, values in json.loads(data)]


def _decode_event(name: str, values: dict[str, Any]) -> Event:
    if "tokens" in values:
        values["tokens"] = tuple(values["tokens"])
    if values.get("logprobs") is not None:
        values["logprobs"] = tuple(_decode_logprobs(given) for given in values["logprobs"])
    return _EVENTS[name](**values)


def _decode_logprobs(values: dict[str, Any] | None) -> TokenLogprobs | None:
    if values is None:
        return None
    top = tuple((token, logprob) for token, logprob in values["top"])
    return TokenLogprobs(token=values["token"], logprob=values["logprob"], top=top)
