"""The calls of a device, over HTTP, and what to look for in the answers."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework.response import Response
from rest_framework.test import APIClient

from contributors.models import Contributor, Scope
from ml import protocol
from tests.training.make import make_api_key, make_attempt_in, make_device, make_report
from training.models import Attempt

State = Attempt.State
DATA = bytes(range(256)) * 4
BASE = "/api/v1"
Call = Callable[[APIClient, Attempt], Response]


def make_client(contributor: Contributor, *scopes: Scope) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {make_api_key(contributor=contributor, scopes=scopes)}")
    return client


def make_mine(contributor: Contributor, state: str = State.RUNNING, **fields: Any) -> Attempt:
    soon = timezone.now() + timedelta(minutes=1)
    ends = {} if state not in Attempt.LIVE_STATES else {"next_transition_at": soon}
    return make_attempt_in(state, device=make_device(contributor=contributor), **{**ends, **fields})


def post(client: APIClient, path: str, body: Any) -> Response:
    """The body as JSON, in ASCII: REST framework's own client cannot send half a surrogate pair."""
    return client.post(f"{BASE}/{path}", json.dumps(body), content_type="application/json")


def claim(client: APIClient, attempt: Attempt, **body: Any) -> Response:
    return post(client, f"attempts/{attempt.pk}/claim", {"nonce": attempt.nonce, **body})


def submit(client: APIClient, attempt: Attempt, **body: Any) -> Response:
    report = {**protocol.encode(make_report()), **body}
    return post(client, f"attempts/{attempt.pk}/submit", report)


def release(client: APIClient, attempt: Attempt, **body: Any) -> Response:
    return post(client, f"attempts/{attempt.pk}/release", body)


def look(client: APIClient, attempt: Attempt) -> Response:
    return client.get(f"{BASE}/attempts/{attempt.pk}")


def upload_offset(client: APIClient, attempt: Attempt) -> Response:
    return client.head(f"{BASE}/attempts/{attempt.pk}/delta")


def put(
    client: APIClient, attempt: Attempt, piece: bytes = DATA, *, offset: Any = 0, data: bytes = DATA, **headers: Any
) -> Response:
    """One piece of `data`."""
    announced = {
        "HTTP_UPLOAD_OFFSET": str(offset),
        "HTTP_UPLOAD_LENGTH": str(len(data)),
        "HTTP_UPLOAD_SHA256": hashlib.sha256(data).hexdigest(),
    }
    path = f"{BASE}/attempts/{attempt.pk}/delta"
    return client.put(path, piece, content_type="application/octet-stream", **{**announced, **headers})


def beat(client: APIClient, device_id: int, **fields: Any) -> Response:
    body = {
        "state": "idle",
        "experiment": None,
        "tokens_per_second": None,
        "attempt_id": None,
        "progress_tokens": None,
        "progress_loss": None,
        **fields,
    }
    return post(client, f"devices/{device_id}/heartbeat", body)


def heartbeat(client: APIClient, attempt: Attempt) -> Response:
    return beat(client, attempt.device_id)


CALLS = [claim, submit, release, look, upload_offset, put, heartbeat]


def problem(response: Response) -> tuple[int, str]:
    """Status and code of an answer that is a problem in RFC 9457's form."""
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.data["status"] == response.status_code
    assert response.data["detail"]
    return response.status_code, response.data["code"]


def make_uploaded(client: APIClient, contributor: Contributor) -> Attempt:
    attempt = make_mine(contributor)
    put(client, attempt)
    return attempt


def warm(client: APIClient, attempt: Attempt) -> None:
    """Note the key's use, which is written once a minute."""
    look(client, attempt)
