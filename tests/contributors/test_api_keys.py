import hashlib
from datetime import timedelta

import pytest

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
