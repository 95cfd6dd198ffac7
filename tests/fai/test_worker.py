"""`celery -A fai worker` as a process, against a real Redis whose account may only PING and BRPOP, and real HTTP."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fai.credentials import Credentials, save_credentials
from fai_project.redis_server import RedisServer
from ml.protocol import PROTOCOL_VERSION, Directives
from tests.fai.coordinator import API_KEY, NOTHING_TO_DO, Attempt, Coordinator, Problem
from tests.fai.make import (
    WIDE,
    WorkerProcess,
    grant_account,
    make_attempt,
    make_experiment,
    remember_speed,
    ring,
    wait_until,
)

pytestmark = pytest.mark.e2e

LONG_BUDGET = 64 * 10**6
"""Tokens that the tiny model trains on for longer than any test lasts."""
CELERY = str(Path(sys.executable).parent / "celery")


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that these tests may stop."""
    with RedisServer(tmp_path_factory.mktemp("own-redis")) as server:
        yield server


@pytest.fixture
def at_work(coordinator: Coordinator, own_redis: RedisServer, tmp_path: Path) -> Coordinator:
    """A coordinator with a broker, for a device whose speed is known."""
    coordinator.grant = lambda device_id: grant_account(own_redis, device_id)
    coordinator.experiments["tiny"] = make_experiment()
    remember_speed(tmp_path / "cache")
    return coordinator


def start_long_job(coordinator: Coordinator, server: RedisServer, worker: WorkerProcess, folder: Path) -> Attempt:
    attempt = make_attempt(coordinator, folder, token_budget=LONG_BUDGET)
    worker.wait_for("waiting_for_work")
    ring(server, attempt_id=1)
    worker.wait_for("step")
    return attempt


def run_to_its_end(coordinator: Coordinator, folder: Path, **env: str) -> tuple[int, str]:
    with WorkerProcess(coordinator, folder, command=None, **env) as worker:
        return worker.wait(seconds=40), worker.output


def test_a_worker_without_flags_trains_and_leaves_at_once_when_idle(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempts = [make_attempt(at_work, tmp_path, attempt_id=number) for number in (1, 2)]
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        for number in (1, 2):
            ring(own_redis, attempt_id=number)
        wait_until(lambda: all(attempt.state == "accepted" for attempt in attempts))
        wait_until(lambda: worker.output.count('"event": "accepted"') == 2)
        started_at = time.monotonic()
        worker.interrupt()
        assert worker.wait() == 0
        assert time.monotonic() - started_at < 10
        assert worker.has_said("goodbye")
    assert at_work.heartbeats[-1]["state"] == "leaving"
    assert "Traceback" not in worker.output


def test_a_duplicate_message_is_no_work(at_work: Coordinator, own_redis: RedisServer, tmp_path: Path) -> None:
    attempt = make_attempt(at_work, tmp_path)
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        for _ in range(3):
            ring(own_redis, attempt_id=1)
        wait_until(lambda: worker.output.count('"event": "offer_gone"') == 2)
        assert attempt.state == "accepted"
        assert at_work.num_requests("PUT", "attempts/1/delta") == 1


def test_ctrl_c_hands_in_what_is_done(at_work: Coordinator, own_redis: RedisServer, tmp_path: Path) -> None:
    with WorkerProcess(at_work, tmp_path) as worker:
        attempt = start_long_job(at_work, own_redis, worker, tmp_path)
        started_at = time.monotonic()
        worker.interrupt()
        assert worker.wait() == 0
        assert time.monotonic() - started_at < 10
        for event in ("finishing", "trained", "handed_in", "goodbye"):
            assert worker.has_said(event)
    assert attempt.report is not None
    assert attempt.report["partial"] is True
    assert 0 < attempt.report["tokens"] < LONG_BUDGET
    assert at_work.heartbeats[-1]["state"] == "leaving"


def test_ctrl_c_twice_gives_the_work_back_and_is_gone(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    gate = threading.Event()

    def hook(method: str, path: str) -> None:
        if path.endswith("delta"):
            gate.wait(20)

    at_work.hook = hook
    with WorkerProcess(at_work, tmp_path) as worker:
        attempt = start_long_job(at_work, own_redis, worker, tmp_path)
        worker.interrupt()
        worker.wait_for("finishing")
        started_at = time.monotonic()
        worker.interrupt()
        assert worker.wait() == 0
        assert time.monotonic() - started_at < 10
        gate.set()
        assert worker.has_said("released")
    assert attempt.release is not None
    assert attempt.release["reason"] == "released_by_device"
    assert list((tmp_path / "cache" / "devices").glob("*/outbox/*")) == []


def test_sigterm_is_as_good_as_ctrl_c(at_work: Coordinator, own_redis: RedisServer, tmp_path: Path) -> None:
    with WorkerProcess(at_work, tmp_path) as worker:
        attempt = start_long_job(at_work, own_redis, worker, tmp_path)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert attempt.report is not None


def test_a_worker_that_was_killed_asks_after_what_it_had_handed_in(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempt = make_attempt(at_work, tmp_path, model=WIDE, codec="topk-64")

    def keep_the_verdict(method: str, path: str) -> None:
        if method == "GET" and path == "attempts/1":
            raise Problem(503, "busy")

    at_work.hook = keep_the_verdict
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=1)
        worker.wait_for("handed_in")
        worker.process.send_signal(signal.SIGKILL)
        worker.wait()
    attempt.state, attempt.reason = "late", "too_late"
    at_work.hook = lambda method, path: None
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("put_back")
        second = make_attempt(at_work, tmp_path, attempt_id=2, model=WIDE, codec="topk-64", round_number=2)
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=2)
        wait_until(lambda: second.state == "accepted")
        worker.interrupt()
        assert worker.wait() == 0
        assert worker.output.count('"event": "put_back"') == 1


def test_a_worker_outlives_its_redis(at_work: Coordinator, own_redis: RedisServer, tmp_path: Path) -> None:
    first = make_attempt(at_work, tmp_path, token_budget=20_000)
    second = make_attempt(at_work, tmp_path, attempt_id=2)
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=1)
        worker.wait_for("claimed")
        own_redis.stop()
        try:
            worker.wait_for("broker_away")
            wait_until(lambda: first.state == "accepted")
            time.sleep(1)
        finally:
            own_redis.start()
        ring(own_redis, attempt_id=2)
        wait_until(lambda: second.state == "accepted")
        worker.interrupt()
        assert worker.wait() == 0
    assert len(at_work.registrations) == 1


def test_ctrl_c_works_while_redis_is_away(at_work: Coordinator, own_redis: RedisServer, tmp_path: Path) -> None:
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        own_redis.stop()
        try:
            worker.wait_for("broker_away")
            worker.interrupt()
            assert worker.wait() == 0
        finally:
            own_redis.start()


def test_a_worker_whose_account_was_lost_registers_again(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempt = make_attempt(at_work, tmp_path)
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        with redis.Redis.from_url(own_redis.acl_url) as admin:
            admin.execute_command("ACL", "DELUSER", "w1")
        worker.wait_for("broker_refused")
        wait_until(lambda: worker.output.count('"event": "waiting_for_work"') == 2)
        ring(own_redis, attempt_id=1)
        wait_until(lambda: attempt.state == "accepted")
    assert len(at_work.registrations) == 2


def test_an_account_without_rights_registers_again(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        with redis.Redis.from_url(own_redis.acl_url) as admin:
            admin.execute_command("ACL", "SETUSER", "w1", "-brpop")
        worker.wait_for("broker_refused")
        wait_until(lambda: worker.output.count('"event": "waiting_for_work"') == 2)


def test_a_banned_contributor_is_told_and_the_worker_ends(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")

        def hook(method: str, path: str) -> None:
            raise Problem(401, "key_revoked")

        at_work.hook = hook
        with redis.Redis.from_url(own_redis.acl_url) as admin:
            admin.execute_command("ACL", "DELUSER", "w1")
        assert worker.wait() == 1
    assert "The coordinator refuses this key (test: key_revoked)" in worker.output


DEAF_WORKER = """
import sys
import fai.session
from celery.__main__ import main
from kombu.transport.redis import Channel

fai.session.OFFER_WAIT_SECONDS = 1.0
start = Channel._brpop_start
channels = []

def start_unless_first(self, *args, **options):
    if self not in channels:
        channels.append(self)
    if self is channels[0]:
        return None
    return start(self, *args, **options)

Channel._brpop_start = start_unless_first
sys.argv = ["celery", "-A", "fai", "worker"]
main()
"""


def test_a_deaf_consumer_is_restarted_when_an_offer_waits(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempt = make_attempt(at_work, tmp_path)
    at_work.heartbeat_seconds = 1

    def directives(beat: dict[str, object]) -> Directives:
        return dataclasses.replace(NOTHING_TO_DO, offer_pending=attempt.state == "offered")

    at_work.directives = directives
    with WorkerProcess(at_work, tmp_path, command=[sys.executable, "-c", DEAF_WORKER]) as worker:
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=1)
        worker.wait_for("consumer_restarted")
        wait_until(lambda: attempt.state == "accepted")
        worker.interrupt()
        assert worker.wait() == 0


def test_an_attempt_that_the_coordinator_takes_back_is_stopped(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    at_work.heartbeat_seconds = 1
    with WorkerProcess(at_work, tmp_path) as worker:
        attempt = start_long_job(at_work, own_redis, worker, tmp_path)
        attempt.state = "cancelled"
        at_work.directives = lambda beat: dataclasses.replace(
            NOTHING_TO_DO, cancel_attempt=beat["attempt_id"] == 1, reason="cancelled"
        )
        worker.wait_for("cancelled")
        assert attempt.received == b""
        second = make_attempt(at_work, tmp_path, attempt_id=2)
        ring(own_redis, attempt_id=2)
        wait_until(lambda: second.state == "accepted")


def test_finished_work_waits_for_a_coordinator_that_is_away(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempt = make_attempt(at_work, tmp_path, token_budget=20_000)
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=1)
        worker.wait_for("step")
        at_work.stop()
        worker.wait_for("trained")
        worker.wait_for("coordinator_away")
        time.sleep(1)
        at_work.start()
        wait_until(lambda: attempt.state == "accepted")
        worker.wait_for("coordinator_back")


def test_work_that_a_killed_worker_had_finished_is_handed_in_first(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempt = make_attempt(at_work, tmp_path)

    def hook(method: str, path: str) -> None:
        if path.endswith("delta"):
            raise Problem(503, "down")

    at_work.hook = hook
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=1)
        worker.wait_for("coordinator_away")
        worker.process.kill()
        assert worker.wait() == -signal.SIGKILL
    at_work.hook = lambda method, path: None
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        assert worker.has_said("leftover")
    assert attempt.state == "accepted"


def test_a_worker_that_has_joined_waits_for_its_coordinator(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    credentials = Credentials(server_url=at_work.url, api_key=API_KEY, nickname="mina", experiment=None)
    save_credentials(tmp_path / "config", credentials)
    at_work.stop()
    with WorkerProcess(at_work, tmp_path, FAI_SERVER_URL="", FAI_API_KEY="") as worker:
        worker.wait_for("coordinator_away")
        at_work.start()
        worker.wait_for("waiting_for_work")


def test_ctrl_c_works_while_the_coordinator_is_waited_for(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.stop()
    with WorkerProcess(coordinator, tmp_path) as worker:
        worker.wait_for("coordinator_away")
        worker.interrupt()
        assert worker.wait() == 0
    assert "Traceback" not in worker.output


def test_two_workers_may_not_be_the_same_device(at_work: Coordinator, own_redis: RedisServer, tmp_path: Path) -> None:
    with WorkerProcess(at_work, tmp_path) as worker:
        worker.wait_for("waiting_for_work")
        exit_code, output = run_to_its_end(at_work, tmp_path)
    assert exit_code == 1
    assert "already runs as device 'test'" in output
    assert len(at_work.registrations) == 1


def test_a_wrong_url_is_one_sentence_and_exit_code_2(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.root = {"service": "shop"}
    exit_code, output = run_to_its_end(coordinator, tmp_path)
    assert exit_code == 2
    assert output.strip().splitlines() == [
        f"{coordinator.url} is no FAI coordinator (something else answers there); check the address."
    ]


def test_another_protocol_version_is_one_sentence_in_korean_too(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.root = {"service": "fai", "protocol_version": PROTOCOL_VERSION + 1}
    exit_code, output = run_to_its_end(coordinator, tmp_path, FAI_LANG="ko")
    assert exit_code == 2
    (line,) = output.strip().splitlines()
    assert "/ko/join/ 에 나온 대로 이 프로그램을 업그레이드하거나" in line


def test_a_revoked_key_is_one_sentence(coordinator: Coordinator, tmp_path: Path) -> None:
    exit_code, output = run_to_its_end(coordinator, tmp_path, FAI_API_KEY="revoked")
    assert exit_code == 1
    (line,) = output.strip().splitlines()
    assert line.startswith("The coordinator refuses this key")


def test_a_finished_experiment_is_one_sentence_that_names_the_others(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.experiments["old"] = {"slug": "old", "state": "finished"}
    coordinator.experiments["tiny"] = make_experiment()
    exit_code, output = run_to_its_end(coordinator, tmp_path, FAI_EXPERIMENT="old")
    assert exit_code == 2
    (line,) = output.strip().splitlines()
    assert line == "The experiment 'old' is finished; choose another one with --experiment: tiny."


def test_fai_worker_joins_and_trains_in_one_command(
    at_work: Coordinator, own_redis: RedisServer, tmp_path: Path
) -> None:
    attempt = make_attempt(at_work, tmp_path)
    program = str(Path(sys.executable).parent / "fai")
    command = [program, "worker", "--name", "내 컴퓨터", "--server", at_work.url, "--experiment", "tiny"]
    with WorkerProcess(at_work, tmp_path, command=command, FAI_SERVER_URL="", FAI_API_KEY="") as worker:
        worker.wait_for("waiting_for_work")
        ring(own_redis, attempt_id=1)
        wait_until(lambda: attempt.state == "accepted")
        worker.interrupt()
        assert worker.wait() == 0
    assert worker.lines[0].startswith("Joined")
    assert at_work.heartbeats[0]["experiment"] == "tiny"


def test_importing_the_application_needs_no_configuration_and_no_torch() -> None:
    code = "import sys, fai, fai.celery; sys.exit('torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAI_")}
    subprocess.run([sys.executable, "-c", code], check=True, env={**environment, "FAI_THREADS": "none"})
