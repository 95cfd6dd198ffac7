"""A coordinator of real processes for the tests that break it, and eyes into its database."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fai_project.local import LocalCoordinator, LocalVolunteer

collect_ignore = ["openai_generated"]
ROOT = Path(__file__).resolve().parent.parent.parent
TIMERS = {
    "FAI_TICK_SECONDS": "0.5",
    "FAI_HEARTBEAT_SECONDS": "1",
    "FAI_OFFER_SECONDS": "8",
    "FAI_LEASE_SECONDS": "8",
}
MODEL = {"vocab_size": 400, "block_size": 32, "n_layer": 1, "n_head": 2, "n_kv_head": 2, "n_embd": 32}
T = TypeVar("T")


class Cluster(LocalCoordinator):
    """A coordinator whose database the test may look into."""

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.folder / 'fai.sqlite3'}?mode=ro", uri=True, timeout=20)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def attempts(self, **where: Any) -> list[dict[str, Any]]:
        """Attempts by experiment slug and nickname, oldest first."""
        rows = self.query(
            """SELECT a.id, a.state, a.reason, c.nickname, a.token_budget, a.verified_tokens, a.job_id
               FROM training_attempt a JOIN contributors_device d ON d.id = a.device_id
               JOIN contributors_contributor c ON c.id = d.contributor_id
               JOIN training_job j ON j.id = a.job_id JOIN training_round r ON r.id = j.round_id
               JOIN training_experiment e ON e.id = r.experiment_id
               WHERE (? IS NULL OR e.slug = ?) AND (? IS NULL OR c.nickname = ?) ORDER BY a.id""",
            where.get("slug"),
            where.get("slug"),
            where.get("nickname"),
            where.get("nickname"),
        )
        names = ("id", "state", "reason", "nickname", "token_budget", "verified_tokens", "job_id")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def closed_rounds(self, slug: str) -> int:
        sql = """SELECT count(*) FROM training_round r JOIN training_experiment e ON e.id = r.experiment_id
                 WHERE e.slug = ? AND r.state = 'closed'"""
        return int(self.query(sql, slug)[0][0])

    def create_experiment(self, slug: str, **options: Any) -> None:
        """Start an experiment on a model that trains in seconds."""
        values = {
            "corpus": ROOT / "data" / "sample",
            "model": json.dumps(MODEL),
            "inner": json.dumps({"learning_rate": 3e-3, "batch_tokens": 256, "warmup_steps": 2}),
            "escrow_seconds": 0,
            **options,
        }
        flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        self.run_manage("create_experiment", slug, *flags)

    def check_ledger(self) -> None:
        self.run_manage("check_ledger")

    def volunteer(self, nickname: str, experiment: str) -> LocalVolunteer:
        """A volunteer who has joined; its worker is not started."""
        volunteer = LocalVolunteer(self.folder / nickname, url=self.url, nickname=nickname, experiment=experiment)
        volunteer.join()
        return volunteer


@contextmanager
def working(*volunteers: LocalVolunteer) -> Iterator[None]:
    """The volunteers' workers run for as long as the context lasts."""
    try:
        for volunteer in volunteers:
            volunteer.worker.start()
        yield
    finally:
        for volunteer in volunteers:
            volunteer.worker.stop()


def events(volunteer: LocalVolunteer, name: str) -> list[dict[str, Any]]:
    """What the volunteer's worker told under this name."""
    lines = volunteer.worker.log.read_text(encoding="utf-8").splitlines()
    return [event for line in lines if line.startswith("{") and (event := json.loads(line))["event"] == name]


def wait_for(found: Callable[[], T], *, seconds: float, what: str) -> T:
    """The first true answer of `found`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    coordinator = Cluster(tmp_path_factory.mktemp("cluster"), timers=TIMERS)
    coordinator.start(engine=False)
    try:
        yield coordinator
    finally:
        coordinator.stop()
