import pytest
import redis

from contributors import api_keys, broker, devices, people
from contributors.models import ApiKey, Contributor, Scope
from ml.protocol import PROTOCOL_VERSION
from tests.contributors.make import NOW, connect

pytestmark = pytest.mark.django_db
NOBODY_LISTENS = "redis://127.0.0.1:1/0"


def make_device(contributor):
    return devices.register(
        contributor=contributor, name="laptop", hardware={}, protocol_version=PROTOCOL_VERSION, now=NOW
    )


def test_joining_gives_a_key_that_volunteers_and_spends():
    mina, secret = people.join(nickname=" Mina ", now=NOW)
    assert mina.nickname == "Mina"
    key = api_keys.find(secret, now=NOW)
    assert (key.contributor, set(key.scopes)) == (mina, {Scope.VOLUNTEER, Scope.COMPLETION})


@pytest.mark.parametrize("nickname", ["Mina", "mina", " MINA "])
def test_a_nickname_is_taken_in_any_letter_case(nickname):
    people.join(nickname="Mina", now=NOW)
    with pytest.raises(people.NicknameTaken, match="choose another"):
        people.join(nickname=nickname, now=NOW)
    assert Contributor.objects.count() == ApiKey.objects.count() == 1


def test_an_unreadable_nickname_is_refused():
    with pytest.raises(people.NicknameInvalid):
        people.join(nickname="\u202eanim", now=NOW)
    assert not Contributor.objects.exists()


def test_a_ban_revokes_keys_and_disconnects_devices(redis_settings):
    mina, secret = people.join(nickname="mina", now=NOW)
    connection = connect(make_device(mina).broker.url)
    assert connection.ping()
    people.ban(contributor=mina, reason="sent noise", now=NOW)
    with pytest.raises(api_keys.KeyInvalid, match="banned: sent noise"):
        api_keys.find(secret, now=NOW)
    with pytest.raises(redis.AuthenticationError):
        connection.ping()
    assert ApiKey.objects.get().revoked_at == NOW


def test_a_ban_stands_without_redis_and_can_be_completed_later(redis_settings, settings):
    mina, _ = people.join(nickname="mina", now=NOW)
    url = make_device(mina).broker.url
    settings.REDIS_ACL_URL = NOBODY_LISTENS
    with pytest.raises(broker.BrokerUnavailable):
        people.ban(contributor=mina, reason="sent noise", now=NOW)
    assert Contributor.objects.get().banned_at == NOW
    settings.REDIS_ACL_URL = redis_settings.acl_url
    people.ban(contributor=mina, reason="again", now=NOW)
    assert Contributor.objects.get().ban_reason == "sent noise"
    with pytest.raises(redis.AuthenticationError):
        connect(url).ping()


def test_an_unbanned_contributor_needs_a_new_key():
    mina, secret = people.join(nickname="mina", now=NOW)
    people.ban(contributor=mina, reason="by mistake", now=NOW)
    people.unban(contributor=mina)
    with pytest.raises(api_keys.KeyInvalid, match="revoked"):
        api_keys.find(secret, now=NOW)
    mina.refresh_from_db()
    _, fresh = api_keys.create(contributor=mina, name="after the ban", scopes=list(Scope), now=NOW)
    assert api_keys.find(fresh, now=NOW).contributor == mina
