"""The requests that an engine has taken and not finished: what of them is left, and what is told of each at its end."""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from inference.engine import metrics
from inference.engine.rates import Rate
from inference.wire import GenerationRequest

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class _Work:
    request: GenerationRequest
    unfinished: set[int]
    began_at: float = field(default_factory=time.monotonic)
    num_tokens: int = 0
    has_told: bool = False


class UnderWay:
    """Written by one thread; counts and rates may be read by others."""

    def __init__(self) -> None:
        self._work: dict[str, _Work] = {}
        self._num_running: Counter[str] = Counter()
        self.tokens = Rate()
        self.requests = Rate()

    def __bool__(self) -> bool:
        return bool(self._work)

    @property
    def request_ids(self) -> list[str]:
        return list(self._work)

    def num_running(self, model: str) -> int:
        return self._num_running[model]

    @property
    def num_all(self) -> int:
        return len(self._work)

    def begin(self, request: GenerationRequest) -> None:
        self._work[request.request_id] = _Work(request=request, unfinished=set(range(request.num_choices)))
        self._num_running[request.model] += 1
        metrics.PROMPT_TOKENS.labels(request.model).inc(request.prompt_tokens)
        if request.queued_at:
            metrics.QUEUE_SECONDS.labels(request.model).observe(max(0.0, time.time() - request.queued_at))

    def note_tokens(self, request_id: str, num_tokens: int) -> None:
        """A choice of the request has got so many more tokens, or text whose tokens are not counted yet."""
        work = self._work.get(request_id)
        if work is not None:
            work.has_told = True
            work.num_tokens += num_tokens
            metrics.COMPLETION_TOKENS.labels(work.request.model).inc(num_tokens)
        self.tokens.add(num_tokens)

    def finish(self, request_id: str, indexes: Iterable[int], *, outcome: str) -> None:
        """These choices are over; the request is, once they all are."""
        work = self._work.get(request_id)
        if work is None:
            return
        work.unfinished.difference_update(indexes)
        if not work.unfinished:
            self._end(work, outcome=outcome)

    def end_all(self, *, outcome: str) -> tuple[list[GenerationRequest], list[GenerationRequest]]:
        """Every request ends here: those of which nothing was told yet, and those of which something was."""
        works = list(self._work.values())
        for work in works:
            self._end(work, outcome=outcome)
        return [w.request for w in works if not w.has_told], [w.request for w in works if w.has_told]

    def _end(self, work: _Work, *, outcome: str) -> None:
        request = work.request
        del self._work[request.request_id]
        self._num_running[request.model] -= 1
        self.requests.add(1)
        metrics.REQUESTS.labels(request.model, outcome).inc()
        logger.info(
            "request %s",
            outcome,
            extra={
                "request_id": request.trace,
                "completion_id": request.request_id,
                "model": request.model,
                "prompt_tokens": request.prompt_tokens,
                "completion_tokens": work.num_tokens,
                "duration_seconds": round(time.monotonic() - work.began_at, 3),
            },
        )
