import math

import pytest
import redis

from contributors import broker, devices
from contributors.models import Contributor, Device
from ml.protocol import PROTOCOL_VERSION, DeviceAccount
from tests.contributors.make import NOW, connect, make_contributor

pytestmark = pytest.mark.django_db
HARDWARE = {"device": "cpu", "name": "Ryzen 7", "memory_bytes": 16 * 2**30, "cores": 8, "bf16": False, "battery": None}


def register(contributor, *, name="laptop", hardware=HARDWARE, protocol_version=PROTOCOL_VERSION) -> DeviceAccount:
    return devices.register(
        contributor=contributor, name=name, hardware=hardware, protocol_version=protocol_version, now=NOW
    )


def test_a_device_gets_an_account_that_opens_its_own_queue(redis_settings):
    account = register(make_contributor(), name=" 내  컴퓨터 ")
    assert account.name == "내 컴퓨터"
    assert account.broker.queue == f"w:{account.device_id}:jobs"
    assert account.broker.ca_certificate is None
    assert connect(account.broker.url).brpop([account.broker.queue], timeout=0.01) is None
    assert Device.objects.get().hardware == HARDWARE


def test_the_same_name_is_the_same_device_with_a_fresh_password(redis_settings):
    mina = make_contributor()
    first = register(mina)
    held = connect(first.broker.url)
    held.ping()
    second = register(mina, hardware={"device": "cuda"})
    assert first.device_id == second.device_id
    assert Device.objects.get().hardware == {"device": "cuda"}
    # Cut: it meets the reset, or the refusal of the login with which it tries again.
    with pytest.raises(redis.ConnectionError):
        held.ping()
    with pytest.raises(redis.AuthenticationError):
        connect(first.broker.url).ping()
    assert connect(second.broker.url).ping()


def test_two_contributors_may_name_their_devices_alike(redis_settings):
    ids = {register(make_contributor(nickname)).device_id for nickname in ("mina", "jun")}
    assert len(ids) == 2


@pytest.mark.parametrize(("offset", "who"), [(-1, "client"), (1, "coordinator")])
def test_another_protocol_version_says_who_must_upgrade(offset, who):
    with pytest.raises(devices.ProtocolUnsupported, match=f"upgrade the {who}"):
        register(make_contributor(), protocol_version=PROTOCOL_VERSION + offset)
    assert not Device.objects.exists()


@pytest.mark.parametrize(
    "hardware",
    [
        {f"field{index}": 1 for index in range(33)},
        {"name": "x" * 201},
        {"k" * 201: 1},
        {"name": "a\x00b"},
        {"name": "a\ud800b"},
        {"gpus": ["a", "b"]},
        {"gpu": {"name": "a"}},
        {"memory_bytes": 2**63},
        {"memory_bytes": math.inf},
    ],
    ids=["too many", "long text", "long key", "control", "surrogate", "list", "nested", "integer", "infinity"],
)
def test_a_description_that_a_database_could_choke_on_is_refused(hardware):
    with pytest.raises(devices.DeviceInvalid):
        register(make_contributor(), hardware=hardware)


def test_the_number_of_devices_is_bounded(redis_settings, monkeypatch):
    monkeypatch.setattr(devices, "MAX_DEVICES", 1)
    mina = make_contributor()
    register(mina)
    with pytest.raises(devices.TooManyDevices):
        register(mina, name="another")
    register(mina)


def test_a_device_that_registers_while_its_owner_is_banned_keeps_no_account(redis_settings):
    """The request was let in before the ban, whose sweep of accounts ran before the device's account was made."""
    mina = make_contributor()
    Contributor.objects.update(banned_at=NOW)
    with pytest.raises(devices.ContributorBanned):
        register(mina)
    provisioner = connect(redis_settings.acl_url)
    assert broker.user_name(Device.objects.get().pk) not in provisioner.acl_users()


def test_without_redis_a_device_learns_that_it_should_try_again(settings):
    settings.REDIS_ACL_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(broker.BrokerUnavailable):
        register(make_contributor())


def test_a_private_authority_is_handed_over(redis_settings, settings, tmp_path):
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----", encoding="ascii")
    settings.REDIS_CA_FILE = str(tmp_path / "ca.pem")
    settings.REDIS_PUBLIC_URL = "rediss://someone:secret@[::1]:6380/0"
    account = broker.public_account(device_id=7, password="pass")
    assert account.url == "rediss://w7:pass@[::1]:6380/0"
    assert account.ca_certificate == "-----BEGIN CERTIFICATE-----"
