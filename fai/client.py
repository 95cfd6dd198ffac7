"""The coordinator's HTTP API: what cannot be reached is tried again, what is refused is raised."""

import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import httpx

from fai import __version__
from fai.stop import Stop
from ml import protocol
from ml.protocol import DeviceAccount, Directives, Heartbeat, JobSpec, ProtocolError, Receipt, Report

FOREVER = None
"""Patience of a call whose failure would lose work."""
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
TOO_MANY_REQUESTS = 429

T = TypeVar("T")


class CoordinatorUnreachable(Exception):
    """Connection refused, timed out or broken, or the server says that it cannot answer for the moment."""

    def __init__(self, why: str, *, has_answered: bool = False, retry_after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.has_answered = has_answered
        self.retry_after_seconds = retry_after_seconds

    def as_stop(self, server_url: str, *, exit_code: int) -> Stop:
        key = "unable" if self.has_answered else "unreachable"
        return Stop(key, exit_code=exit_code, url=server_url, why=self)


class CoordinatorError(Exception):
    """A refusal, in the coordinator's words: RFC 9457 problem details with a `code`."""

    def __init__(self, *, status: int, code: str, detail: str, extra: dict[str, Any] | None = None) -> None:
        super().__init__(detail or code)
        self.status = status
        self.code = code
        self.detail = detail
        self.extra = extra or {}

    @property
    def is_final_for_device(self) -> bool:
        """The key is revoked, the contributor banned, or this program too old."""
        return self.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.UPGRADE_REQUIRED}

    def as_stop(self) -> Stop:
        if self.status == httpx.codes.UNAUTHORIZED:
            return Stop("key_refused", why=self.detail or self.code)
        return Stop(
            "refused", exit_code=2 if self.status == httpx.codes.UPGRADE_REQUIRED else 1, why=self.detail or self.code
        )


class Contact(Protocol):
    """Who is told that the coordinator is away, and decides how long to wait for it."""

    def lost(self, why: str, seconds: float) -> None: ...
    def found(self) -> None: ...
    def wait(self, seconds: float) -> bool:
        """Wait; False when waiting has to end."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploaded:
    """What the coordinator says of a piece."""

    offset: int
    """Where the next one begins."""
    receipt: Receipt | None
    """Of the work, once the piece has made it whole."""


class Client:
    """One coordinator. Safe to share between threads."""

    def __init__(self, *, server_url: str, api_key: str | None, contact: Contact) -> None:
        self.server_url = server_url
        self._contact = contact
        headers = {"User-Agent": f"fai/{__version__}"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._http = httpx.Client(base_url=f"{server_url}/api/v1/", headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def patiently(self, action: Callable[[], T], *, patience_seconds: float | None) -> T:
        """Result of `action`, tried again with growing, jittered pauses while the coordinator cannot be reached.

        Raises: CoordinatorUnreachable after `patience_seconds`, or when the contact says that waiting has to end.
        """
        deadline = None if patience_seconds is None else time.monotonic() + patience_seconds
        for failures in itertools.count():
            try:
                result = action()
            except CoordinatorUnreachable as error:
                delay = _delay(failures, error.retry_after_seconds)
                if deadline is not None and time.monotonic() + delay > deadline:
                    raise
                self._contact.lost(str(error), delay)
                if not self._contact.wait(delay):
                    raise
            else:
                self._contact.found()
                return result
        raise AssertionError("unreachable")

    def check_server(self, *, patience_seconds: float | None) -> None:
        """Return if a coordinator of this protocol answers.

        Raises: Stop with exit code 2 on anything else that answers; CoordinatorUnreachable.
        """
        try:
            root = self.patiently(lambda: self._json("GET", ""), patience_seconds=patience_seconds)
        except CoordinatorError as error:
            raise Stop("wrong_url", exit_code=2, url=self.server_url, why=f"HTTP {error.status}") from error
        if not isinstance(root, dict) or root.get("service") != "fai":
            raise Stop("wrong_url", exit_code=2, url=self.server_url, why="something else answers there")
        if root.get("protocol_version") != protocol.PROTOCOL_VERSION:
            raise Stop(
                "other_protocol",
                exit_code=2,
                url=self.server_url,
                theirs=root.get("protocol_version"),
                ours=protocol.PROTOCOL_VERSION,
            )

    def join(self, nickname: str) -> str:
        """API key of a new contributor."""
        key = self._json("POST", "contributors", json={"nickname": nickname})["api_key"]
        return str(key)

    def register(self, *, name: str, hardware: dict[str, Any], patience_seconds: float | None) -> DeviceAccount:
        body = {"name": name, "hardware": hardware, "protocol_version": protocol.PROTOCOL_VERSION}
        return self.patiently(
            lambda: _decode(DeviceAccount, self._json("POST", "devices", json=body)), patience_seconds=patience_seconds
        )

    def heartbeat(self, device_id: int, heartbeat: Heartbeat, *, timeout_seconds: float = 10.0) -> Directives:
        body = protocol.encode(heartbeat)
        data = self._json("POST", f"devices/{device_id}/heartbeat", json=body, timeout=timeout_seconds)
        self._contact.found()
        return _decode(Directives, data)

    def claim(self, attempt_id: int, nonce: str, *, patience_seconds: float | None) -> JobSpec:
        return self.patiently(
            lambda: _decode(JobSpec, self._json("POST", f"attempts/{attempt_id}/claim", json={"nonce": nonce})),
            patience_seconds=patience_seconds,
        )

    def release(self, attempt_id: int, *, reason: str, detail: str, patience_seconds: float = 3.0) -> None:
        body = {"reason": reason, "detail": detail[:300]}
        self.patiently(
            lambda: self._json("POST", f"attempts/{attempt_id}/release", json=body, timeout=patience_seconds),
            patience_seconds=patience_seconds,
        )

    def attempt(self, attempt_id: int) -> Receipt:
        return _decode(Receipt, self._json("GET", f"attempts/{attempt_id}"))

    def get(self, path: str, *, patience_seconds: float | None = 0.0) -> Any:
        """JSON of a page that has no type of its own in the protocol."""
        return self.patiently(lambda: self._json("GET", path), patience_seconds=patience_seconds)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._json("POST", path, json=body)

    @contextlib.contextmanager
    def open_blob(self, sha256: str, *, offset: int) -> Iterator[tuple[bool, Iterator[bytes]]]:
        """(whether the stream starts at `offset`, its pieces); else it starts at 0."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with (
            _network_errors(),
            # An object store may serve the file: httpx drops the key when it follows to another host.
            self._http.stream("GET", f"blobs/{sha256}", headers=headers, follow_redirects=True) as response,
        ):
            if response.is_error:
                response.read()
            _raise_for(response)
            yield response.status_code == httpx.codes.PARTIAL_CONTENT, response.iter_bytes(2**18)

    def blob_size(self, sha256: str) -> int:
        """Bytes of a file, found out by asking for its first."""
        with (
            _network_errors(),
            self._http.stream(
                "GET", f"blobs/{sha256}", headers={"Range": "bytes=0-0"}, follow_redirects=True
            ) as response,
        ):
            if response.is_error:
                response.read()
            _raise_for(response)
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            size = total or response.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise _unexpected(response, "no size")
        return int(size)

    def upload_offset(self, attempt_id: int) -> int:
        """How many bytes of the delta the coordinator has."""
        try:
            response = self._request("HEAD", f"attempts/{attempt_id}/delta")
        except CoordinatorError:
            # An answer to HEAD has no body to say why; the first piece will be refused with a reason.
            return 0
        return int(response.headers.get("Upload-Offset", "0"))

    def upload_piece(self, attempt_id: int, piece: bytes, *, offset: int, announced: dict[str, str]) -> Uploaded:
        """Send one piece; with the last of them the work is handed in."""
        headers = {**announced, "Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
        data = self._json("PUT", f"attempts/{attempt_id}/delta", content=piece, headers=headers)
        receipt = data.get("receipt")
        return Uploaded(offset=int(data["offset"]), receipt=None if receipt is None else _decode(Receipt, receipt))

    def hand_in(
        self, attempt_id: int, path: Path, *, sha256: str, report: Report, on_piece: Callable[[int], None]
    ) -> Receipt:
        """Send the delta, from where the coordinator has it, and its report, through every interruption.

        `on_piece(offset)` may raise to stop.
        """
        announced = {
            "Upload-Length": str(path.stat().st_size),
            "Upload-Sha256": sha256,
            "Upload-Report": json.dumps(protocol.encode(report)),
        }

        def send_rest() -> Receipt:
            receipt = self._upload(attempt_id, path, announced, on_piece)
            if receipt is None:
                body = protocol.encode(report)
                receipt = _decode(Receipt, self._json("POST", f"attempts/{attempt_id}/submit", json=body))
            return receipt

        return self.patiently(send_rest, patience_seconds=FOREVER)

    def _upload(
        self, attempt_id: int, path: Path, announced: dict[str, str], on_piece: Callable[[int], None]
    ) -> Receipt | None:
        """The receipt, or None where the coordinator had the whole already."""
        size_bytes = path.stat().st_size
        # What fits into one piece is not worth the question how much of it has arrived.
        offset = 0 if size_bytes <= protocol.UPLOAD_CHUNK_BYTES else self.upload_offset(attempt_id)
        with path.open("rb") as file:
            while offset < size_bytes:
                on_piece(offset)
                file.seek(offset)
                piece = file.read(protocol.UPLOAD_CHUNK_BYTES)
                try:
                    uploaded = self.upload_piece(attempt_id, piece, offset=offset, announced=announced)
                except CoordinatorError as error:
                    if error.code != "offset_mismatch":
                        raise
                    offset = int(error.extra["offset"])
                else:
                    offset = uploaded.offset
                    if uploaded.receipt is not None:
                        return uploaded.receipt
        return None

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self._request(method, path, **options)
        try:
            return response.json()
        except ValueError as error:
            raise _unexpected(response, "no JSON") from error

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with _network_errors():
            response = self._http.request(method, path, **options)
        _raise_for(response)
        return response


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, httpx.TooManyRedirects) as error:
        raise CoordinatorUnreachable(str(error) or type(error).__name__) from error


def _raise_for(response: httpx.Response) -> None:
    """Raises: CoordinatorUnreachable on 5xx and 429, CoordinatorError on every other answer that is no success."""
    if response.is_success:
        return
    problem = _problem(response)
    if response.is_server_error or response.status_code == TOO_MANY_REQUESTS:
        detail = problem.get("detail") if problem else None
        why = f"HTTP {response.status_code}: {detail}" if detail else f"HTTP {response.status_code}"
        raise CoordinatorUnreachable(why, has_answered=True, retry_after_seconds=_retry_after(response))
    if problem is None:
        raise _unexpected(response, response.reason_phrase)
    raise CoordinatorError(
        status=response.status_code,
        code=str(problem.get("code", "unexpected_answer")),
        detail=str(problem.get("detail", problem.get("title", ""))),
        extra=problem,
    )


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    """Problem details, or None of something else between here and the coordinator."""
    try:
        problem = response.json()
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _unexpected(response: httpx.Response, why: str) -> CoordinatorError:
    return CoordinatorError(
        status=response.status_code, code="unexpected_answer", detail=f"HTTP {response.status_code}, {why}"
    )


def _decode(cls: type[T], data: Any) -> T:
    try:
        return protocol.decode(cls, data)
    except ProtocolError as error:
        raise CoordinatorError(status=200, code="unexpected_answer", detail=str(error)) from error


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 2 * MAX_DELAY_SECONDS) if value.isdecimal() else None


def _delay(failures: int, retry_after_seconds: float | None) -> float:
    """Seconds until the next try: doubled each time, by a random half, so that devices do not return all at once."""
    longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(failures, 10))
    jittered: float = longest * random.uniform(0.5, 1.0)
    return max(retry_after_seconds or 0.0, jittered)
