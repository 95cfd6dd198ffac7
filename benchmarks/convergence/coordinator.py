"""The coordinator's part of a simulated experiment: who is offered how much, and when a round is merged.

The rules are those of training/dispatch.py and training/rounds.py, on numbers instead of rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.convergence.scenario import Rules

UNPROVEN_SHARE = 4
"""A device whose work has never been accepted is given at most this part of a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """A device that waits for work."""

    device: int
    tokens_per_second: float
    is_proven: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One offer that a device took."""

    attempt_id: int
    device: int
    round_number: int
    index: int
    """Of the job in its round."""
    shard: int
    token_budget: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A delta that the next merge takes."""

    job: Job
    tokens: int

    def weight(self, *, round_number: int, staleness_percent: int) -> float:
        return self.tokens * (staleness_percent / 100) ** (round_number - self.job.round_number)


class Coordinator:
    """One experiment's books: its open round, the jobs under way and the deltas that wait to be merged."""

    def __init__(self, rules: Rules, *, batch_tokens: int, num_shards: int) -> None:
        self.rules = rules
        self.round_number = 0
        self.opened_at = 0.0
        self._batch_tokens = batch_tokens
        self._given_out = [0] * num_shards
        self._num_jobs = 0
        self._num_attempts = 0
        self._live: dict[int, Job] = {}
        self._accepted: list[Accepted] = []
        self._enough_since = math.inf

    @property
    def progress(self) -> tuple[float, float]:
        """Share of the experiment before the open round, and after it."""
        return (self.round_number - 1) / self.rules.num_rounds, self.round_number / self.rules.num_rounds

    @property
    def accepted_tokens(self) -> int:
        return sum(delta.tokens for delta in self._accepted)

    @property
    def remaining_tokens(self) -> int:
        live_tokens = sum(job.token_budget for job in self._live.values())
        return max(0, self.rules.round_tokens - self.accepted_tokens - live_tokens)

    def open_next(self, *, now: float) -> None:
        self.round_number += 1
        self.opened_at = now
        self._num_jobs = 0
        self._enough_since = now if self.accepted_tokens >= self.rules.round_min_tokens else math.inf

    def offer(self, idle: Sequence[Idle]) -> list[Job]:
        """Jobs for devices that are idle, as far as the round's tokens go."""
        shares = split(idle, rules=self.rules, remaining_tokens=self.remaining_tokens, batch_tokens=self._batch_tokens)
        jobs = [self._new_job(device, num_tokens) for device, num_tokens in shares]
        self._live |= {job.attempt_id: job for job in jobs}
        return jobs

    def accept(self, job: Job, *, tokens: int, now: float) -> bool:
        """Count a delta, unless it is too many rounds late; whether it counts."""
        self._live.pop(job.attempt_id, None)
        if self.round_number - job.round_number > self.rules.max_staleness:
            return False
        self._accepted.append(Accepted(job=job, tokens=tokens))
        if self.accepted_tokens >= self.rules.round_min_tokens:
            self._enough_since = min(self._enough_since, now)
        return True

    def forget(self, job: Job) -> None:
        """A job whose delta will not come any more."""
        self._live.pop(job.attempt_id, None)

    @property
    def closes_at(self) -> float:
        """When the open round merges what it has; infinite before it has enough."""
        deadline = max(self.opened_at + self.rules.round_seconds, self._enough_since)
        return min(deadline, self._enough_since + self.rules.grace_seconds)

    def is_full(self, *, now: float) -> bool:
        """Whether the open round may be merged."""
        if not self._accepted:
            return False
        is_complete = self.accepted_tokens >= self.rules.round_tokens
        is_exhausted = not self._live and self.remaining_tokens < self._batch_tokens
        return is_complete or is_exhausted or now >= self.closes_at

    def take(self) -> list[tuple[Accepted, float]]:
        """The deltas that the open round merges, with their weights."""
        taken, self._accepted = self._accepted, []
        percent = self.rules.staleness_percent
        return [(delta, delta.weight(round_number=self.round_number, staleness_percent=percent)) for delta in taken]

    def _new_job(self, device: int, num_tokens: int) -> Job:
        shard = min(range(len(self._given_out)), key=lambda index: (self._given_out[index], index))
        self._given_out[shard] += 1
        self._num_attempts += 1
        self._num_jobs += 1
        return Job(
            attempt_id=self._num_attempts,
            device=device,
            round_number=self.round_number,
            index=self._num_jobs - 1,
            shard=shard,
            token_budget=num_tokens,
        )


def split(idle: Sequence[Idle], *, rules: Rules, remaining_tokens: int, batch_tokens: int) -> list[tuple[int, int]]:
    """Devices and their tokens: what each trains in job_seconds, scaled down alike where less is left, in whole steps.

    Where the rules set `job_tokens`, all get as many, however fast they are.
    """
    most_unproven = rules.round_tokens // UNPROVEN_SHARE
    wanted = []
    for one in idle:
        tokens = rules.job_tokens or one.tokens_per_second * rules.job_seconds
        wanted.append((one.device, max(batch_tokens, tokens if one.is_proven else min(tokens, most_unproven))))
    total = sum(tokens for _, tokens in wanted)
    scale = min(1.0, remaining_tokens / total) if total else 0.0
    shares = []
    for device, tokens in wanted:
        num_tokens = max(batch_tokens, int(tokens * scale) // batch_tokens * batch_tokens)
        if num_tokens <= remaining_tokens:
            remaining_tokens -= num_tokens
            shares.append((device, num_tokens))
    return shares
