"""Joining, devices and a contributor's own pages, over HTTP."""

import base64
import json
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db import OperationalError

from contributors import api_keys, ledger, people
from contributors.models import ApiKey, Contributor, Device, Scope
from contributors.parsers import MAX_JSON_BYTES
from ml.protocol import PROTOCOL_VERSION, DeviceAccount, decode
from tests.contributors.make import NOW, connect, make_contributor, make_earning, make_hold, make_key

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _forget_throttles():
    cache.clear()


@pytest.fixture
def mina():
    return make_contributor("mina", credits_=100)


@pytest.fixture
def headers(mina):
    return bearer(make_key(mina)[1])


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def post(client, path, body, **options):
    return client.post(f"/api/v1/{path}", body, content_type="application/json", **options)


def problem(response, status, code):
    """The body, once it is shown to be a problem document with this status and code."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert {"type", "title", "detail"} <= body.keys()
    assert "\n" not in body["detail"]
    return body


def test_joining_takes_a_nickname_alone(client):
    response = post(client, "contributors", {"nickname": "민아"})
    assert response.status_code == 201
    body = response.json()
    assert body["nickname"] == "민아"
    key = api_keys.find(body["api_key"], now=NOW)
    assert key.contributor_id == body["contributor_id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"nickname": "MINA"}, 409, "nickname_taken"),
        ({"nickname": "\u202eanim"}, 400, "nickname_invalid"),
        ({"nickname": "x" * 41}, 400, "nickname_invalid"),
        ({"nickname": ""}, 400, "invalid"),
        ({"nickname": "a\x00b"}, 400, "invalid"),
        ({"nickname": ["mina"]}, 400, "invalid"),
        ({}, 400, "invalid"),
        ([], 400, "invalid"),
    ],
)
def test_joining_explains_what_is_wrong(client, mina, body, status, code):
    problem(post(client, "contributors", body), status, code)
    assert Contributor.objects.count() == 1


def test_a_validation_error_names_the_field(client):
    body = problem(post(client, "contributors", {}), 400, "invalid")
    assert body["detail"] == "nickname: This field is required."
    assert body["errors"] == {"nickname": ["This field is required."]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 400, "parse_error"),
        ("\udcff".encode("utf-8", "surrogateescape"), 400, "parse_error"),
        ('{"nickname": NaN}', 400, "parse_error"),
        ("[" * 100_000, 400, "parse_error"),
        ('{"nickname": ' + "9" * 5_000 + "}", 400, "parse_error"),
        ('{"nickname": "\\ud800"}', 400, "invalid"),
        (" " * MAX_JSON_BYTES + "{}", 413, "too_large"),
    ],
    ids=["cut off", "not UTF-8", "NaN", "deep", "long number", "surrogate", "too large"],
)
def test_no_body_breaks_the_server(client, body, status, code):
    problem(post(client, "contributors", body), status, code)


def test_other_media_types_are_refused(client):
    problem(
        client.post("/api/v1/contributors", "nickname=mina", content_type="text/plain"), 415, "unsupported_media_type"
    )


def test_joining_is_throttled_by_address_whatever_the_headers_claim(client):
    for number in range(60):
        assert post(client, "contributors", {}, headers={"X-Forwarded-For": f"10.0.0.{number}"}).status_code == 400
    response = post(client, "contributors", {"nickname": "mina"}, headers={"X-Forwarded-For": "10.0.0.99"})
    problem(response, 429, "throttled")
    assert 0 < int(response["Retry-After"]) <= 60
    assert post(client, "contributors", {"nickname": "mina"}, REMOTE_ADDR="192.0.2.7").status_code == 201


@pytest.mark.parametrize("path", ["me", "me/ledger", "me/devices", "me/keys"])
@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "not_authenticated"),
        ("Basic bWluYTpwYXNz", "not_authenticated"),
        ("Bearer", "invalid_api_key"),
        ("Bearer fai_sk_wrong", "invalid_api_key"),
        ("Bearer \xff\xfe", "invalid_api_key"),
    ],
)
def test_without_a_valid_key_the_answer_is_401(client, path, authorization, code):
    headers = {"Authorization": authorization} if authorization else {}
    response = client.get(f"/api/v1/{path}", headers=headers)
    problem(response, 401, code)
    assert response["WWW-Authenticate"] == 'Bearer realm="FAI"'


def test_a_banned_contributor_is_told_so(client, mina, headers):
    people.ban(contributor=mina, reason="sent noise", now=NOW)
    assert problem(client.get("/api/v1/me", headers=headers), 401, "banned")["detail"].endswith("sent noise")


def test_a_revoked_key_is_told_so(client, mina, headers):
    api_keys.revoke(key=ApiKey.objects.get(), now=NOW)
    problem(client.get("/api/v1/me", headers=headers), 401, "key_revoked")


def test_a_wrong_method_says_which_are_right(client, headers):
    response = client.delete("/api/v1/me", headers=headers)
    problem(response, 405, "method_not_allowed")
    assert "GET" in response["Allow"]


def test_me_shows_what_is_available_held_and_in_escrow(client, mina, headers):
    make_earning(mina, 50, release_at=NOW + timedelta(days=1))
    make_hold(mina, 30)
    body = client.get("/api/v1/me", headers=headers).json()
    assert body["contributor_id"] == mina.pk
    assert (body["available_credits"], body["held_credits"], body["escrow_credits"]) == (70, 30, 50)


def test_the_ledger_lists_ones_own_entries_newest_first(client, mina, headers):
    make_earning(make_contributor("jun"), 999, source="attempt:9")
    release_at = NOW + timedelta(days=1)
    make_earning(mina, 50, source="attempt:2", release_at=release_at)
    ledger.capture(hold=make_hold(mina, 30), amount=20, now=NOW)
    entries = client.get("/api/v1/me/ledger", headers=headers).json()["results"]
    assert [(entry["kind"], entry["account"], entry["amount"], entry["source"]) for entry in entries] == [
        ("usage", "available", -20, "completion:1"),
        ("earn", "escrow", 50, "attempt:2"),
        ("earn", "available", 100, "gift:mina"),
    ]
    assert [entry["release_at"] is not None for entry in entries] == [False, True, False]


def test_while_the_database_cannot_write_the_caller_is_told_to_come_back(client, headers, monkeypatch):
    def fail(contributor):
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(ledger, "balance", fail)
    answer = client.get("/api/v1/me", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("position", ["abc", "9" * 5_000, "\ud800", "-1"])
def test_a_forged_cursor_is_refused(client, headers, position):
    cursor = base64.b64encode(urlencode({"p": position}, errors="surrogatepass").encode()).decode()
    answer = client.get("/api/v1/me/ledger", {"cursor": cursor}, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (404, "Invalid cursor")


def test_the_ledger_is_paged_with_a_fixed_number_of_queries(client, mina, headers, django_assert_num_queries):
    for number in range(150):
        make_earning(mina, 1, source=f"attempt:{number}")
    client.get("/api/v1/me", headers=headers)
    with django_assert_num_queries(2):
        first = client.get("/api/v1/me/ledger", headers=headers).json()
    second = client.get(first["next"], headers=headers).json()
    assert [len(page["results"]) for page in (first, second)] == [100, 51]
    assert second["next"] is None


def test_registering_a_device_gives_an_account_that_works(client, headers, redis_settings):
    body = {"name": "laptop", "hardware": {"device": "cpu", "cores": 8}, "protocol_version": PROTOCOL_VERSION}
    response = post(client, "devices", body, headers=headers)
    assert response.status_code == 201
    account = decode(DeviceAccount, response.json())
    assert connect(account.broker.url).ping()
    listed = client.get("/api/v1/me/devices", headers=headers).json()
    assert [(device["device_id"], device["name"], device["state"]) for device in listed] == [
        (account.device_id, "laptop", "idle")
    ]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, 426, "upgrade_needed"),
        ({"protocol_version": "one"}, 400, "invalid"),
        ({"protocol_version": -1}, 400, "invalid"),
        ({"name": "\u200b"}, 400, "device_invalid"),
        ({"hardware": {"name": "a\x00"}}, 400, "device_invalid"),
        ({"hardware": {"name": {"a": {}}}}, 400, "device_invalid"),
        ({"hardware": "cpu"}, 400, "invalid"),
    ],
)
def test_registering_explains_what_is_wrong(client, headers, redis_settings, change, status, code):
    body = {"name": "laptop", "hardware": {}, "protocol_version": PROTOCOL_VERSION} | change
    problem(post(client, "devices", body, headers=headers), status, code)


def test_registering_without_redis_says_try_again(client, headers, settings):
    settings.REDIS_ACL_URL = "redis://127.0.0.1:1/0"
    body = {"name": "laptop", "hardware": {}, "protocol_version": PROTOCOL_VERSION}
    response = post(client, "devices", body, headers=headers)
    problem(response, 503, "broker_unavailable")
    assert response["Retry-After"] == "5"


def test_a_completion_key_cannot_register_devices(client, mina):
    _, secret = make_key(mina, Scope.COMPLETION)
    body = {"name": "laptop", "hardware": {}, "protocol_version": PROTOCOL_VERSION}
    problem(post(client, "devices", body, headers=bearer(secret)), 403, "missing_scope")
    assert not Device.objects.exists()


def test_a_key_makes_a_narrower_one_and_shows_its_secret_once(client, mina, headers):
    response = post(client, "me/keys", {"name": "for my son", "scopes": ["completion"]}, headers=headers)
    assert response.status_code == 201
    made = response.json()
    assert api_keys.find(made["api_key"], now=NOW).scopes == ["completion"]
    listed = client.get("/api/v1/me/keys", headers=headers)
    assert [key["name"] for key in listed.json()] == ["for my son", "laptop"]
    assert "sha256" not in listed.content.decode()
    assert made["api_key"] not in listed.content.decode()


@pytest.mark.parametrize(
    "body", [{"name": "x", "scopes": ["admin"]}, {"name": "x", "scopes": []}, {"name": "", "scopes": ["volunteer"]}]
)
def test_a_key_needs_a_name_and_known_scopes(client, headers, body):
    problem(post(client, "me/keys", body, headers=headers), 400, "invalid")


def test_a_narrow_key_neither_makes_nor_revokes_a_wider_one(client, mina):
    wide, _ = make_key(mina)
    _, secret = make_key(mina, Scope.COMPLETION)
    body = {"name": "x", "scopes": ["completion", "volunteer"]}
    problem(post(client, "me/keys", body, headers=bearer(secret)), 403, "missing_scope")
    problem(client.delete(f"/api/v1/me/keys/{wide.prefix}", headers=bearer(secret)), 403, "missing_scope")
    wide.refresh_from_db()
    assert wide.revoked_at is None


def test_a_revoked_key_stops_working_and_stays_listed(client, mina, headers):
    lent, secret = make_key(mina, Scope.COMPLETION)
    assert client.delete(f"/api/v1/me/keys/{lent.prefix}", headers=headers).status_code == 204
    problem(client.get("/api/v1/me", headers=bearer(secret)), 401, "key_revoked")
    assert client.get("/api/v1/me/keys", headers=headers).json()[0]["revoked_at"]


def test_anothers_key_is_not_there(client, headers):
    other, _ = make_key(make_contributor("jun"))
    problem(client.delete(f"/api/v1/me/keys/{other.prefix}", headers=headers), 404, "not_found")


def test_the_openapi_document_is_complete_and_valid(tmp_path):
    path = tmp_path / "schema.json"
    call_command("spectacular", "--fail-on-warn", "--validate", "--format=openapi-json", f"--file={path}")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    assert document["paths"]["/api/v1/devices"]["post"]["responses"]["426"]
