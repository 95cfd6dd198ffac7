"""A coordinator for the volunteer's side to talk to: real HTTP on a free port, the contract's JSON, no database."""

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from ml import protocol
from ml.protocol import BrokerAccount, DeviceAccount, Directives, JobSpec, Receipt

API_KEY = "fai_sk_test"
NOTHING_TO_DO = Directives(
    experiment=None,
    offer_pending=False,
    cancel_attempt=False,
    reason="no_running_experiment",
    available_credits=12,
    escrow_credits=3,
    pending_credits=0,
)


class Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, **members: Any) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"title": code, "status": status, "code": code, "detail": f"test: {code}", **members}


@dataclass
class Attempt:
    """What the coordinator knows of an attempt."""

    spec: JobSpec
    nonce: str = "nonce"
    state: str = "offered"
    reason: str | None = None
    received: bytearray = field(default_factory=bytearray)
    announced: tuple[int, str] | None = None
    report: dict[str, Any] | None = None
    release: dict[str, Any] | None = None

    def receipt(self) -> Receipt:
        is_accepted = self.state == "accepted"
        return Receipt(
            attempt_id=self.spec.attempt_id,
            state=self.state,
            reason=self.reason,
            detail="",
            verified_tokens=self.report["tokens"] if is_accepted and self.report else None,
            earned_credits=7 if is_accepted else None,
        )


class Coordinator:
    """Answers until stopped; `hook` may raise a Problem, or break the answer, before any request is served."""

    def __init__(self) -> None:
        self.root: Any = {"service": "fai", "protocol_version": protocol.PROTOCOL_VERSION, "version": "0"}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.pages: dict[str, Any] = {}
        """Answers that replace what would be said at a path."""
        self.blobs: dict[str, bytes] = {}
        self.attempts: dict[int, Attempt] = {}
        self.heartbeats: list[dict[str, Any]] = []
        self.registrations: list[dict[str, Any]] = []
        self.wanted_keys: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.directives: Callable[[dict[str, Any]], Directives] = lambda beat: NOTHING_TO_DO
        self.hook: Callable[[str, str], None] = lambda method, path: None
        self.grant: Callable[[int], str] = lambda device_id: "redis://nowhere.invalid:1/0"
        self.heartbeat_seconds = 30
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the port it had before where it had one."""
        server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"coordinator": self}))
        server.daemon_threads = True
        self.port = server.server_port
        self._server = server
        threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def put_blob(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs[sha256] = content
        return sha256

    def num_requests(self, method: str, pattern: str) -> int:
        return sum(1 for verb, path in self.requests if verb == method and re.fullmatch(pattern, path))


class _Handler(BaseHTTPRequestHandler):
    """Routes by method and path."""

    coordinator: Coordinator
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        path = self.path.removeprefix("/api/v1/")
        self.coordinator.requests.append((self.command, path))
        if self.coordinator._server is None:
            self.close_connection = True
            return
        try:
            self.coordinator.hook(self.command, path)
            self._route(path, body)
        except Problem as problem:
            self._answer(problem.status, problem.body)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815  http.server's names

    def _route(self, path: str, body: bytes) -> None:
        if path in self.coordinator.pages:
            self._answer(200, self.coordinator.pages[path])
        elif match := re.fullmatch(r"attempts/(\d+)(?:/(\w+))?", path):
            self._route_attempt(self._find_attempt(int(match[1])), match[2] or "", body)
        elif match := re.fullmatch(r"blobs/(\w+)", path):
            self._send_blob(match[1])
        elif match := re.fullmatch(r"devices/(\d+)/heartbeat", path):
            self._require_key()
            beat = json.loads(body)
            self.coordinator.heartbeats.append(beat)
            self._answer(200, protocol.encode(self.coordinator.directives(beat)))
        elif match := re.fullmatch(r"experiments/([\w-]+)", path):
            if match[1] not in self.coordinator.experiments:
                raise Problem(404, "not_found")
            self._answer(200, self.coordinator.experiments[match[1]])
        else:
            self._answer(*self._page(path, body))

    def _page(self, path: str, body: bytes) -> tuple[int, Any]:
        coordinator = self.coordinator
        if path == "":
            return 200, coordinator.root
        if path == "experiments":
            return 200, list(coordinator.experiments.values())
        if path == "contributors":
            return 201, {"contributor_id": 5, "nickname": json.loads(body)["nickname"], "api_key": API_KEY}
        self._require_key()
        if path == "devices":
            coordinator.registrations.append(json.loads(body))
            account = DeviceAccount(
                device_id=1,
                name=json.loads(body)["name"],
                heartbeat_seconds=coordinator.heartbeat_seconds,
                broker=BrokerAccount(url=coordinator.grant(1), queue=protocol.queue_name(1), ca_certificate=None),
            )
            return 201, protocol.encode(account)
        if path == "me":
            credit = {"available_credits": 12, "held_credits": 0, "escrow_credits": 3}
            return 200, {"contributor_id": 5, "nickname": "mina", **credit}
        if path == "me/ledger":
            movement = {"kind": "earn", "amount": 12, "paid_for": "attempt:1", "created_at": "2026-05-01T12:00:00Z"}
            return 200, {"next": None, "previous": None, "results": [movement]}
        if path == "me/keys":
            self.coordinator.wanted_keys.append(json.loads(body))
            return 201, {"api_key": "fai_sk_more", **self.coordinator.wanted_keys[-1]}
        raise Problem(404, "not_found")

    def _route_attempt(self, attempt: Attempt, action: str, body: bytes) -> None:
        if action == "claim":
            if json.loads(body)["nonce"] != attempt.nonce:
                raise Problem(404, "not_found")
            if attempt.state != "offered":
                raise Problem(410, attempt.reason or attempt.state)
            attempt.state = "running"
            self._answer(200, protocol.encode(attempt.spec))
        elif action == "delta":
            self._receive(attempt, body)
        elif action == "submit":
            self._submit(attempt, body)
        elif action == "release":
            if attempt.state not in {"offered", "running", "released", "failed"}:
                raise Problem(409, attempt.state)
            attempt.release = json.loads(body)
            attempt.state = "released"
            self._answer(200, protocol.encode(attempt.receipt()))
        else:
            self._answer(200, protocol.encode(attempt.receipt()))

    def _receive(self, attempt: Attempt, body: bytes) -> None:
        if self.command == "HEAD":
            self._answer(200, None, {"Upload-Offset": str(len(attempt.received))})
            return
        if attempt.report is None:
            self._require_running(attempt)
        announced = (int(self.headers["Upload-Length"]), self.headers["Upload-Sha256"])
        if attempt.announced != announced:
            attempt.announced = announced
            attempt.received.clear()
        if int(self.headers["Upload-Offset"]) != len(attempt.received):
            raise Problem(409, "offset_mismatch", offset=len(attempt.received))
        attempt.received += body
        if len(attempt.received) == announced[0] and hashlib.sha256(attempt.received).hexdigest() != announced[1]:
            attempt.received.clear()
            raise Problem(422, "wrong_sha256")
        is_handed_in = "Upload-Report" in self.headers and len(attempt.received) == announced[0]
        receipt = self._take(attempt, self.headers["Upload-Report"]) if is_handed_in else None
        self._answer(200, {"offset": len(attempt.received), "receipt": receipt})

    def _submit(self, attempt: Attempt, body: bytes) -> None:
        if attempt.report is None:
            self._require_running(attempt)
            if attempt.announced is None or len(attempt.received) != attempt.announced[0]:
                raise Problem(409, "delta_missing")
        self._answer(202, self._take(attempt, body))

    def _take(self, attempt: Attempt, report: str | bytes) -> dict[str, Any]:
        if attempt.report is None:
            attempt.report = json.loads(report)
            attempt.state = "accepted"
        receipt = dataclasses.replace(attempt.receipt(), state="submitted", earned_credits=None, verified_tokens=None)
        return protocol.encode(receipt)

    def _send_blob(self, sha256: str) -> None:
        if sha256 not in self.coordinator.blobs:
            raise Problem(404, "not_found")
        content = self.coordinator.blobs[sha256]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        part = content[start : int(asked[2]) + 1] if asked and asked[2] else content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    def _find_attempt(self, attempt_id: int) -> Attempt:
        self._require_key()
        if attempt_id not in self.coordinator.attempts:
            raise Problem(404, "not_found")
        return self.coordinator.attempts[attempt_id]

    def _require_key(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {API_KEY}":
            raise Problem(401, "key_invalid")

    def _require_running(self, attempt: Attempt) -> None:
        if attempt.state != "running":
            raise Problem(410, attempt.reason or attempt.state)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/problem+json" if status >= 400 else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
