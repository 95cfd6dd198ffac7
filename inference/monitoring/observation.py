"""What operators see of a completion: its latencies as metrics, its end as a line of the log; never its text."""

import logging
import time

from django.conf import settings
from tokenizers import Tokenizer

from inference.monitoring import metrics, tracing
from inference.wire import ChoicePiece, ChoiceTokens, Event, GenerationRequest

logger = logging.getLogger(__name__)


class Observed:
    """One request from when it is made to its end. Units: seconds."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._slug = request.model.partition("@")[0]
        self._began_at = time.monotonic()
        self._first_token_at: float | None = None
        self._last_token_at: dict[int, float] = {}

    def note(self, event: Event) -> None:
        """An event has come from the engine."""
        if not isinstance(event, ChoiceTokens | ChoicePiece):
            return
        now = time.monotonic()
        if self._first_token_at is None:
            self._first_token_at = now
            metrics.FIRST_TOKEN_SECONDS.labels(self._slug).observe(now - self._began_at)
        num_tokens = len(event.tokens) if isinstance(event, ChoiceTokens) else event.num_tokens
        last_at = self._last_token_at.get(event.index)
        if last_at is not None and num_tokens > 0:
            metrics.TOKEN_SECONDS.labels(self._slug).observe((now - last_at) / num_tokens)
        self._last_token_at[event.index] = now

    def end(self, *, state: str, completion_tokens: int, key_prefix: str) -> None:
        """The request is over and its bill is settled."""
        first = self._first_token_at
        metrics.COMPLETIONS.labels(self._slug, state).inc()
        metrics.PROMPT_TOKENS.labels(self._slug).inc(self._request.prompt_tokens)
        metrics.COMPLETION_TOKENS.labels(self._slug).inc(completion_tokens)
        logger.info(
            "completion %s",
            state,
            extra={
                "request_id": self._request.trace or tracing.current(),
                "completion_id": self._request.request_id,
                "model": self._request.model,
                "key": key_prefix,
                "state": state,
                "prompt_tokens": self._request.prompt_tokens,
                "completion_tokens": completion_tokens,
                "first_token_seconds": None if first is None else round(first - self._began_at, 4),
                "seconds": round(time.monotonic() - self._began_at, 4),
            },
        )


def log_prompts(request: GenerationRequest, tokenizer: Tokenizer) -> None:
    """Log what was asked, where the operator wants that: FAI_LOG_PROMPTS."""
    if settings.LOG_PROMPTS:
        prompts = [tokenizer.decode(list(prompt), skip_special_tokens=False) for prompt in request.prompts]
        logger.info("prompts", extra={"completion_id": request.request_id, "prompts": prompts})
