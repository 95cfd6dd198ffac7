import hashlib
from datetime import timedelta

import pytest
from django.db import IntegrityError

from contributors import api_keys
from contributors.models import ApiKey, Scope
from tests.contributors.make import NOW, make_contributor, make_key

pytestmark = pytest.mark.django_db


def refusal(secret, *, now=NOW):
    with pytest.raises(api_keys.KeyInvalid) as refused:
        api_keys.find(secret, now=now)
    return refused.value.code


def test_the_secret_has_the_announced_shape_and_only_its_hash_is_stored():
    key, secret = make_key(make_contributor(), Scope.VOLUNTEER)
    assert api_keys.PATTERN.fullmatch(secret)[2] == key.prefix
    assert key.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    stored = ApiKey.objects.values().get()
    assert not any(secret[16:59] in str(value) for value in stored.values())
    assert stored["scopes"] == ["volunteer"]


def test_a_key_is_found_with_one_query_and_touched_once_a_minute(django_assert_num_queries):
    key, secret = make_key(make_contributor())
    api_keys.find(secret, now=NOW)
    with django_assert_num_queries(1):
        assert api_keys.find(secret, now=NOW + timedelta(seconds=59)).contributor.nickname == "mina"
    assert ApiKey.objects.get().last_used_at == NOW
    with django_assert_num_queries(2):
        assert api_keys.find(secret, now=NOW + timedelta(seconds=60)) == key
    assert ApiKey.objects.get().last_used_at == NOW + timedelta(seconds=60)


def test_a_mistyped_key_never_reaches_the_database(django_assert_num_queries):
    _, secret = make_key(make_contributor())
    swapped = secret[:20] + ("a" if secret[20] != "a" else "b") + secret[21:]
    with django_assert_num_queries(0):
        for mistyped in (swapped, secret[:-1], secret + "\n", secret.upper(), "", "fai_sk_", "x" * 10_000, "é" * 68):
            assert refusal(mistyped) == "invalid_api_key"


def test_a_well_formed_key_that_was_never_issued_is_refused():
    key, _ = make_key(make_contributor())
    for prefix in (key.prefix, "unknown0"):
        body = f"fai_sk_{prefix}_{'a' * 43}"
        assert refusal(f"{body}_{api_keys._checksum(body)}") == "invalid_api_key"


def test_a_revoked_key_is_refused_and_its_first_revocation_stands():
    key, secret = make_key(make_contributor())
    api_keys.revoke(key=key, now=NOW)
    api_keys.revoke(key=key, now=NOW + timedelta(days=1))
    assert refusal(secret) == "key_revoked"
    assert ApiKey.objects.get().revoked_at == NOW


def test_a_key_is_refused_from_its_expiry_on():
    key, secret = make_key(make_contributor())
    ApiKey.objects.update(expires_at=NOW + timedelta(hours=1))
    assert api_keys.find(secret, now=NOW + timedelta(minutes=59)) == key
    assert refusal(secret, now=NOW + timedelta(hours=1)) == "key_expired"


def test_a_banned_contributors_key_says_so():
    mina = make_contributor()
    _, secret = make_key(mina)
    mina.banned_at, mina.ban_reason = NOW, "sent noise"
    mina.save()
    assert refusal(secret) == "banned"


def test_the_number_of_usable_keys_is_bounded(monkeypatch):
    monkeypatch.setattr(api_keys, "MAX_USABLE_KEYS", 2)
    mina = make_contributor()
    first, _ = make_key(mina)
    make_key(mina)
    with pytest.raises(api_keys.TooManyKeys):
        make_key(mina)
    api_keys.revoke(key=first, now=NOW)
    make_key(mina)


def test_a_successor_has_the_same_scopes_and_limits_and_the_old_key_ends_after_the_overlap():
    limits = api_keys.Limits(credit_cap=50, cap_period="week", tokens_per_minute=9, is_shared=True)
    key, secret = api_keys.create(
        contributor=make_contributor(), name="family", scopes=[Scope.COMPLETION], limits=limits, now=NOW
    )
    successor, fresh = api_keys.rotate(key=key, overlap=timedelta(hours=2), now=NOW)
    assert api_keys.find(secret, now=NOW + timedelta(minutes=119)) == key
    assert refusal(secret, now=NOW + timedelta(hours=2)) == "key_expired"
    found = api_keys.find(fresh, now=NOW + timedelta(days=300))
    assert (found, found.name, found.scopes) == (successor, "family", ["completion"])
    assert api_keys.Limits(**{name: getattr(found, name) for name in api_keys.LIMIT_FIELDS}) == limits
    assert found.root_id == key.pk
    key.refresh_from_db()
    assert key.replaced_by == successor


def test_rotating_prolongs_no_key():
    key, _ = make_key(make_contributor())
    soon = NOW + timedelta(hours=1)
    api_keys.change(key=key, limits=api_keys.Limits(expires_at=soon), now=NOW)
    successor, _ = api_keys.rotate(key=key, overlap=timedelta(days=7), now=NOW)
    key.refresh_from_db()
    assert key.expires_at == successor.expires_at == soon


def test_a_key_is_replaced_once_and_a_successor_again():
    key, secret = make_key(make_contributor())
    successor, _ = api_keys.rotate(key=key, overlap=timedelta(), now=NOW)
    assert refusal(secret) == "key_expired"
    with pytest.raises(api_keys.KeyNotRotatable):
        api_keys.rotate(key=key, overlap=timedelta(), now=NOW)
    third, _ = api_keys.rotate(key=successor, overlap=timedelta(), now=NOW)
    assert third.root_id == key.pk


def test_a_revoked_key_gets_no_successor():
    key, _ = make_key(make_contributor())
    api_keys.revoke(key=key, now=NOW)
    with pytest.raises(api_keys.KeyNotRotatable):
        api_keys.rotate(key=key, overlap=timedelta(), now=NOW)


def test_overlaps_count_among_the_usable_keys(monkeypatch):
    monkeypatch.setattr(api_keys, "MAX_USABLE_KEYS", 1)
    key, _ = make_key(make_contributor())
    with pytest.raises(api_keys.TooManyKeys):
        api_keys.rotate(key=key, overlap=timedelta(days=1), now=NOW)
    api_keys.rotate(key=key, overlap=timedelta(), now=NOW)


@pytest.mark.parametrize(
    ("limits", "scopes", "field"),
    [
        ({"is_shared": True, "credit_cap": 5, "cap_period": "day"}, list(Scope), "scopes"),
        ({"is_shared": True, "cap_period": "none"}, [Scope.COMPLETION], "credit_cap"),
        ({"is_shared": True, "credit_cap": 5}, [Scope.COMPLETION], "credit_cap"),
        ({"cap_period": "day"}, [Scope.COMPLETION], "credit_cap"),
        ({"expires_at": NOW}, [Scope.COMPLETION], "expires_at"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(limits, scopes, field):
    mina = make_contributor()
    with pytest.raises(api_keys.LimitsInvalid) as refused:
        api_keys.create(contributor=mina, name="x", scopes=scopes, limits=api_keys.Limits(**limits), now=NOW)
    assert refused.value.field == field
    assert not ApiKey.objects.exists()


def test_the_database_refuses_a_shared_key_without_a_cap():
    key, _ = make_key(make_contributor())
    with pytest.raises(IntegrityError):
        ApiKey.objects.filter(pk=key.pk).update(is_shared=True)
