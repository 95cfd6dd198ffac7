"""Plays many devices at once against a coordinator: claim, heartbeat, hand in, each over a kept connection.

It shares the cores with the server that it measures, so it is cheap: threads that write requests on plain sockets, and
read of an answer no more than its status and its length. A real device does the rest elsewhere.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CALLS = ("claim", "heartbeat", "hand_in")
TIMEOUT_SECONDS = 60
REPORT = {
    "num_steps": 1,
    "seconds": 1.0,
    "first_loss": 5.0,
    "last_loss": 4.0,
    "partial": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """An attempt that waits to be claimed, and what its device needs to take it to its end."""

    device_id: int
    attempt_id: int
    nonce: str
    api_key: str
    experiment: str
    tokens: int
    delta_path: str
    delta_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a run of cycles took."""

    num_cycles: int
    seconds: float
    latencies: dict[str, list[float]]
    """Seconds of each answer, by call."""
    errors: Counter[str]

    @property
    def cycles_per_second(self) -> float:
        return self.num_cycles / self.seconds


class Connection:
    """One HTTP/1.1 connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._socket.sendall(request)
        status = int(self._reader.readline().split(b" ", 2)[1])
        length = 0
        while (line := self._reader.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, self._reader.read(length)


def play(tickets: Sequence[Ticket], *, port: int, num_connections: int) -> Load:
    """Take every ticket through one cycle, `num_connections` at a time."""
    cycles = [(ticket, requests(ticket)) for ticket in tickets]
    waiting = _Shared(cycles)
    start = time.perf_counter()
    with ThreadPoolExecutor(num_connections) as pool:
        parts = [pool.submit(_work, waiting, port) for _ in range(num_connections)]
    seconds = time.perf_counter() - start
    latencies: dict[str, list[float]] = {call: [] for call in CALLS}
    errors: Counter[str] = Counter()
    for part in parts:
        taken, failed = part.result()
        errors += failed
        for call in CALLS:
            latencies[call] += taken[call]
    return Load(num_cycles=len(tickets), seconds=seconds, latencies=latencies, errors=errors)


def requests(ticket: Ticket) -> dict[str, bytes]:
    """The three requests of a cycle, ready to be sent."""
    attempt = f"/api/v1/attempts/{ticket.attempt_id}"
    heartbeat = {
        "state": "training",
        "experiment": ticket.experiment,
        "tokens_per_second": 1_000.0,
        "attempt_id": ticket.attempt_id,
        "progress_tokens": ticket.tokens,
        "progress_loss": 4.0,
    }
    delta = Path(ticket.delta_path).read_bytes()
    report = {**REPORT, "tokens": ticket.tokens, "tokens_per_second": 1_000.0}
    announced = {
        "Upload-Offset": "0",
        "Upload-Length": str(len(delta)),
        "Upload-Sha256": ticket.delta_sha256,
        "Upload-Report": json.dumps(report),
    }
    return {
        "claim": _post(ticket, f"{attempt}/claim", {"nonce": ticket.nonce}),
        "heartbeat": _post(ticket, f"/api/v1/devices/{ticket.device_id}/heartbeat", heartbeat),
        "hand_in": _request(ticket, "PUT", f"{attempt}/delta", delta, announced),
    }


class _Shared:
    """An iterator that several threads draw from."""

    def __init__(self, items: Iterable[tuple[Ticket, dict[str, bytes]]]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[Ticket, dict[str, bytes]]]:
        return self

    def __next__(self) -> tuple[Ticket, dict[str, bytes]]:
        with self._lock:
            return next(self._items)


def _work(waiting: _Shared, port: int) -> tuple[dict[str, list[float]], Counter[str]]:
    latencies: dict[str, list[float]] = {call: [] for call in CALLS}
    errors: Counter[str] = Counter()
    connection = Connection(port)
    for _, cycle in waiting:
        for call, request in cycle.items():
            start = time.perf_counter()
            status, body = connection.send(request)
            latencies[call].append(time.perf_counter() - start)
            if status not in (200, 202):
                errors[f"{call}: {status} {body[:200].decode(errors='replace')}"] += 1
    connection.close()
    return latencies, errors


def _post(ticket: Ticket, path: str, body: dict[str, object]) -> bytes:
    return _request(ticket, "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _request(ticket: Ticket, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    fields = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {ticket.api_key}",
        "Content-Length": str(len(body)),
        "User-Agent": "benchmark",
        **headers,
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body
