import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fai import client as client_module
from fai.client import FOREVER, Client, CoordinatorError, CoordinatorUnreachable
from fai.contact import PatientContact
from fai.stop import Stop
from ml.protocol import PROTOCOL_VERSION, UPLOAD_CHUNK_BYTES, Receipt
from tests.fai.coordinator import Coordinator, Problem
from tests.fai.make import make_attempt, make_client, make_report


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "MAX_DELAY_SECONDS", 0.05)


def fail_times(coordinator: Coordinator, count: int, problem: Problem) -> None:
    left = [problem] * count

    def hook(method: str, path: str) -> None:
        if left:
            raise left.pop()

    coordinator.hook = hook


class ImpatientContact(PatientContact):
    """Gives up at the third wait."""

    def __init__(self) -> None:
        self.num_waits = 0

    def wait(self, seconds: float) -> bool:
        self.num_waits += 1
        return self.num_waits < 3


def test_a_coordinator_of_this_protocol_is_recognized(coordinator: Coordinator) -> None:
    with make_client(coordinator, api_key=None) as client:
        client.check_server(patience_seconds=0)


@pytest.mark.parametrize("root", [{"service": "shop"}, [], "hello", {}])
def test_something_else_at_the_address_is_a_wrong_url(coordinator: Coordinator, root: object) -> None:
    coordinator.root = root
    with make_client(coordinator) as client, pytest.raises(Stop, match="no FAI coordinator") as caught:
        client.check_server(patience_seconds=0)
    assert caught.value.exit_code == 2


def test_an_address_without_an_api_is_a_wrong_url(coordinator: Coordinator) -> None:
    fail_times(coordinator, 1, Problem(404, "not_found"))
    with make_client(coordinator) as client, pytest.raises(Stop, match="HTTP 404"):
        client.check_server(patience_seconds=0)


def test_another_protocol_version_names_both(coordinator: Coordinator) -> None:
    coordinator.root = {"service": "fai", "protocol_version": 99}
    words = f"protocol 99, this program {PROTOCOL_VERSION}"
    with make_client(coordinator) as client, pytest.raises(Stop, match=words) as caught:
        client.check_server(patience_seconds=0)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_call_waits_through_a_coordinator_that_cannot_answer(coordinator: Coordinator, status: int) -> None:
    fail_times(coordinator, 3, Problem(status, "busy"))
    with make_client(coordinator) as client:
        assert client.get("me", patience_seconds=FOREVER)["nickname"] == "mina"


def test_a_coordinator_that_cannot_answer_is_quoted(coordinator: Coordinator) -> None:
    fail_times(coordinator, 1, Problem(507, "disk_full"))
    with make_client(coordinator) as client, pytest.raises(CoordinatorUnreachable) as caught:
        client.get("me", patience_seconds=0)
    assert str(caught.value) == "HTTP 507: test: disk_full"
    assert "cannot do this at the moment (HTTP 507" in str(caught.value.as_stop("https://a.example", exit_code=2))


def test_a_call_waits_until_the_coordinator_is_started(coordinator: Coordinator) -> None:
    coordinator.stop()
    timer = threading.Timer(0.3, coordinator.start)
    timer.start()
    with make_client(coordinator) as client:
        assert client.get("me", patience_seconds=FOREVER)["nickname"] == "mina"
    timer.join()


def test_patience_ends(coordinator: Coordinator) -> None:
    coordinator.stop()
    started_at = time.monotonic()
    with make_client(coordinator) as client, pytest.raises(CoordinatorUnreachable):
        client.get("me", patience_seconds=0.2)
    assert time.monotonic() - started_at < 2


def test_the_contact_ends_a_wait_without_end(coordinator: Coordinator) -> None:
    coordinator.stop()
    contact = ImpatientContact()
    with (
        Client(server_url=coordinator.url, api_key="x", contact=contact) as client,
        pytest.raises(CoordinatorUnreachable),
    ):
        client.get("me", patience_seconds=FOREVER)
    assert contact.num_waits == 3


def test_a_refusal_is_raised_at_once_with_its_code(coordinator: Coordinator) -> None:
    fail_times(coordinator, 1, Problem(409, "nickname_taken"))
    with make_client(coordinator) as client, pytest.raises(CoordinatorError) as caught:
        client.join("mina")
    assert (caught.value.status, caught.value.code, str(caught.value)) == (
        409,
        "nickname_taken",
        "test: nickname_taken",
    )


@pytest.mark.parametrize(
    ("status", "exit_code", "words"),
    [(401, 1, "refuses this key"), (403, 1, "refuses: test: code"), (426, 2, "refuses: test: code")],
)
def test_a_final_refusal_ends_the_program(coordinator: Coordinator, status: int, exit_code: int, words: str) -> None:
    fail_times(coordinator, 1, Problem(status, "code"))
    with make_client(coordinator) as client, pytest.raises(CoordinatorError) as caught:
        client.get("me")
    assert caught.value.is_final_for_device
    stop = caught.value.as_stop()
    assert stop.exit_code == exit_code
    assert words in str(stop)


def test_an_answer_of_another_shape_is_an_error_and_no_crash(coordinator: Coordinator) -> None:
    coordinator.pages["attempts/1"] = {"attempt_id": "one"}
    with make_client(coordinator) as client, pytest.raises(CoordinatorError, match="Receipt") as caught:
        client.attempt(1)
    assert caught.value.code == "unexpected_answer"


def hand_in(client: Client, path: Path, sha256: str, on_piece: Callable[[int], None] = lambda offset: None) -> Receipt:
    return client.hand_in(1, path, sha256=sha256, report=make_report(), on_piece=on_piece)


def test_a_delta_is_uploaded_in_pieces(coordinator: Coordinator, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "running"
    path = tmp_path / "delta"
    path.write_bytes(b"x" * (2 * UPLOAD_CHUNK_BYTES + 17))
    offsets: list[int] = []
    with make_client(coordinator) as client:
        receipt = hand_in(client, path, coordinator.put_blob(path.read_bytes()), on_piece=offsets.append)
    assert receipt.state == "submitted"
    assert attempt.report is not None
    assert coordinator.num_requests("POST", ".*submit") == 0
    assert offsets == [0, UPLOAD_CHUNK_BYTES, 2 * UPLOAD_CHUNK_BYTES]
    assert attempt.received == path.read_bytes()


def test_an_interrupted_upload_goes_on_where_it_was(coordinator: Coordinator, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "running"
    path = tmp_path / "delta"
    path.write_bytes(bytes(range(256)) * (3 * UPLOAD_CHUNK_BYTES // 256))

    def hook(method: str, path: str) -> None:
        if method == "PUT" and coordinator.num_requests("PUT", ".*") == 2:
            raise Problem(502, "bad_gateway")

    coordinator.hook = hook
    with make_client(coordinator) as client:
        hand_in(client, path, coordinator.put_blob(path.read_bytes()))
    assert attempt.received == path.read_bytes()
    assert coordinator.num_requests("PUT", ".*") == 4
    assert coordinator.num_requests("HEAD", ".*") == 2


def test_an_offset_that_the_coordinator_does_not_share_is_corrected(coordinator: Coordinator, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "running"
    path = tmp_path / "delta"
    path.write_bytes(b"y" * (UPLOAD_CHUNK_BYTES + 5))
    sha256 = coordinator.put_blob(path.read_bytes())
    attempt.announced = (path.stat().st_size, sha256)

    def hook(method: str, request_path: str) -> None:
        if method == "PUT" and not attempt.received:
            # A piece that arrived while its answer was lost.
            attempt.received += path.read_bytes()[:UPLOAD_CHUNK_BYTES]

    coordinator.hook = hook
    with make_client(coordinator) as client:
        hand_in(client, path, sha256)
    assert attempt.received == path.read_bytes()


def test_a_small_delta_is_handed_in_with_one_request(coordinator: Coordinator, tmp_path: Path) -> None:
    make_attempt(coordinator, tmp_path).state = "running"
    path = tmp_path / "delta"
    path.write_bytes(b"small")
    with make_client(coordinator) as client:
        assert hand_in(client, path, coordinator.put_blob(b"small")).state == "submitted"
    assert coordinator.requests == [("PUT", "attempts/1/delta")]


def test_a_delta_that_the_coordinator_has_whole_is_only_submitted(coordinator: Coordinator, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "running"
    path = tmp_path / "delta"
    path.write_bytes(b"z" * (UPLOAD_CHUNK_BYTES + 1))
    sha256 = coordinator.put_blob(path.read_bytes())
    attempt.announced = (path.stat().st_size, sha256)
    attempt.received += path.read_bytes()
    with make_client(coordinator) as client:
        assert hand_in(client, path, sha256).state == "submitted"
    assert coordinator.num_requests("PUT", ".*") == 0


def test_a_released_attempt_carries_its_reason(coordinator: Coordinator, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    with make_client(coordinator) as client:
        client.release(1, reason="client_error", detail="x" * 400)
    assert attempt.release == {"reason": "client_error", "detail": "x" * 300}
