"""A contributor's keys and their limits over HTTP; and what a key that has limits may not do."""

from datetime import timedelta

import pytest
from django.utils import timezone

from contributors import api_keys
from contributors.models import ApiKey, Scope
from tests.contributors.make import make_contributor, make_key
from tests.contributors.test_api import bearer, post, problem

pytestmark = pytest.mark.django_db
FAMILY = {"name": "family", "scopes": ["completion"], "is_shared": True, "credit_cap": 500, "cap_period": "week"}


@pytest.fixture
def mina():
    return make_contributor(credits_=1_000)


@pytest.fixture
def headers(mina):
    return bearer(make_key(mina)[1])


def patch(client, prefix, body, headers):
    return client.patch(f"/api/v1/me/keys/{prefix}", body, content_type="application/json", headers=headers)


def make_family_key(client, headers):
    response = post(client, "me/keys", FAMILY, headers=headers)
    assert response.status_code == 201
    return response.json()


def test_a_key_is_made_with_limits_and_listed_with_them(client, headers):
    made = make_family_key(client, headers)
    listed = client.get("/api/v1/me/keys", headers=headers).json()[0]
    assert {name: listed[name] for name in FAMILY} == FAMILY
    assert (listed["prefix"], listed["requests_per_minute"], listed["replaced_by"]) == (made["prefix"], None, None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"credit_cap": None}, "credit_cap"),
        ({"credit_cap": 0}, "credit_cap"),
        ({"credit_cap": 2**63}, "credit_cap"),
        ({"cap_period": "year"}, "cap_period"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": "many"}, "tokens_per_minute"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"scopes": ["completion", "volunteer"]}, "scopes"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(client, headers, change, field):
    body = problem(post(client, "me/keys", {**FAMILY, **change}, headers=headers), 400, "invalid")
    assert list(body["errors"]) == [field]


def test_limits_are_changed_one_by_one_and_taken_away_by_null(client, headers):
    prefix = make_family_key(client, headers)["prefix"]
    changed = patch(client, prefix, {"credit_cap": 70, "requests_per_minute": 5}, headers)
    assert (changed.status_code, changed.json()["credit_cap"], changed.json()["cap_period"]) == (200, 70, "week")
    assert patch(client, prefix, {"requests_per_minute": None}, headers).json()["requests_per_minute"] is None
    problem(patch(client, prefix, {"cap_period": "none"}, headers), 400, "invalid")
    assert ApiKey.objects.get(prefix=prefix).credit_cap == 70


def test_a_key_is_rotated_with_an_overlap(client, headers):
    old = make_family_key(client, headers)
    response = post(client, f"me/keys/{old['prefix']}/rotate", {"overlap_seconds": 3_600}, headers=headers)
    assert response.status_code == 201
    new = response.json()
    now = timezone.now()
    for secret in (old["api_key"], new["api_key"]):
        assert api_keys.find(secret, now=now).name == "family"
    with pytest.raises(api_keys.KeyInvalid):
        api_keys.find(old["api_key"], now=now + timedelta(seconds=3_601))
    replaced = client.get("/api/v1/me/keys", headers=headers).json()[1]
    assert (replaced["prefix"], replaced["replaced_by"]) == (old["prefix"], new["prefix"])
    problem(post(client, f"me/keys/{old['prefix']}/rotate", {}, headers=headers), 409, "key_not_rotatable")
    too_long = {"overlap_seconds": 10**7}
    problem(post(client, f"me/keys/{new['prefix']}/rotate", too_long, headers=headers), 400, "invalid")


def test_a_shared_key_sees_and_changes_nothing_of_its_owner(client, headers):
    made = make_family_key(client, headers)
    lent = bearer(made["api_key"])
    for path in ("me", "me/ledger", "me/devices", "me/keys"):
        problem(client.get(f"/api/v1/{path}", headers=lent), 403, "shared_key")
    problem(post(client, "me/keys", {"name": "x", "scopes": ["completion"]}, headers=lent), 403, "shared_key")
    problem(patch(client, made["prefix"], {"credit_cap": 10**9}, lent), 403, "shared_key")
    problem(post(client, f"me/keys/{made['prefix']}/rotate", {}, headers=lent), 403, "shared_key")


@pytest.mark.parametrize(
    "limit",
    [{"credit_cap": 5}, {"requests_per_minute": 5}, {"tokens_per_minute": 5}, {"expires_at": "2999-01-01T00:00Z"}],
)
def test_a_key_with_limits_cannot_shed_them(client, mina, headers, limit):
    wide, _ = make_key(mina)
    made = post(client, "me/keys", {"name": "lent", "scopes": sorted(Scope), **limit}, headers=headers).json()
    limited = bearer(made["api_key"])
    problem(post(client, "me/keys", {"name": "x", "scopes": ["completion"]}, headers=limited), 403, "limited_key")
    problem(patch(client, made["prefix"], {"credit_cap": None}, limited), 403, "limited_key")
    problem(client.delete(f"/api/v1/me/keys/{wide.prefix}", headers=limited), 403, "limited_key")
    rotated = post(client, f"me/keys/{made['prefix']}/rotate", {"overlap_seconds": 60}, headers=limited)
    assert rotated.status_code == 201
    assert {name: rotated.json()[name] for name in limit if name != "expires_at"} == {
        name: value for name, value in limit.items() if name != "expires_at"
    }
    assert client.delete(f"/api/v1/me/keys/{made['prefix']}", headers=limited).status_code == 204
