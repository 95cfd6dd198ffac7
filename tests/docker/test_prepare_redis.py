"""What docker/prepare_redis.py writes, held by a real Redis: over TLS where this machine's Redis can, else without."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kombu
import pytest
import redis
import redis.asyncio
from django.conf import LazySettings

from contributors import broker
from fai.broker import connection_settings
from fai_project.redis_server import find_executable
from tests.docker.compose import DOCKER, ROOT

PASSWORDS = {
    "REDIS_COORDINATOR_PASSWORD": "coordinator-0123456789",
    "REDIS_PROVISIONER_PASSWORD": "provisioner-0123456789",
}
START_SECONDS = 10


def has_openssl() -> bool:
    """Whether this machine has the OpenSSL of the image; macOS has another program under its name."""
    path = shutil.which("openssl")
    if path is None:
        return False
    answer = subprocess.run([path, "version"], capture_output=True, text=True, check=True).stdout.split()
    return answer[0] == "OpenSSL" and int(answer[1].split(".")[0]) >= 3


pytestmark = pytest.mark.skipif(not has_openssl(), reason="the image's script needs OpenSSL 3")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The folders that compose.yaml mounts as /redis, /broker-ca and /authority, and a Redis on the first."""

    root: Path
    port: int
    has_tls: bool

    @property
    def authority(self) -> str:
        return str(self.root / "broker-ca" / "ca.crt")

    def url(self, user: str, password: str) -> str:
        """As compose.yaml writes it."""
        if not self.has_tls:
            return f"redis://{user}:{password}@localhost:{self.port}/0"
        return (
            f"rediss://{user}:{password}@localhost:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={self.authority}"
        )

    @property
    def public_url(self) -> str:
        return f"{'rediss' if self.has_tls else 'redis'}://localhost:{self.port}/0"

    @property
    def coordinator_url(self) -> str:
        return self.url("coordinator", PASSWORDS["REDIS_COORDINATOR_PASSWORD"])

    @property
    def provisioner_url(self) -> str:
        return self.url("provisioner", PASSWORDS["REDIS_PROVISIONER_PASSWORD"])


def prepare(root: Path, *, host: str = "localhost", passwords: dict[str, str] | None = None) -> str:
    """Run the script as the init service does; what it complains of."""
    folders = {"redis": root / "redis", "public": root / "broker-ca", "authority": root / "authority"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    command = [sys.executable, DOCKER / "prepare_redis.py", f"--host={host}"]
    command += [f"--{option}={folder}" for option, folder in folders.items()]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(passwords or PASSWORDS)}
    answer = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode == 0) == (answer.stderr == ""), answer.stderr
    return answer.stderr


def write_conf(prepared: Prepared) -> Path:
    """docker/redis.conf with the container's paths and port replaced by ours."""
    text = (DOCKER / "redis.conf").read_text().replace("tls-port 6380", f"tls-port {prepared.port}")
    for folder in ("redis", "broker-ca"):
        assert f" /{folder}/" in text
        text = text.replace(f" /{folder}/", f" {prepared.root / folder}/")
    if not prepared.has_tls:
        kept = [line for line in text.splitlines() if not line.startswith("tls-")]
        text = "\n".join(kept).replace("port 0", f"port {prepared.port}")
    path = prepared.root / "redis.conf"
    path.write_text(text)
    return path


def start(prepared: Prepared) -> subprocess.Popen[bytes]:
    server = subprocess.Popen([find_executable(), write_conf(prepared)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with redis.Redis.from_url(prepared.coordinator_url) as client:
                client.ping()
                return server
        except redis.ConnectionError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait(START_SECONDS)


def redis_has_tls() -> bool:
    """A build with TLS asks for its certificate before it listens; one without does not know the word."""
    answer = subprocess.run(
        [find_executable(), "--port", "0", "--tls-port", "1"], capture_output=True, text=True, check=False
    )
    assert answer.returncode != 0
    return "tls-cert-file" in answer.stdout


@contextmanager
def prepared_redis(root: Path) -> Iterator[Prepared]:
    assert prepare(root) == ""
    prepared = Prepared(root=root, port=free_port(), has_tls=redis_has_tls())
    server = start(prepared)
    try:
        yield prepared
    finally:
        stop(server)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with prepared_redis(tmp_path_factory.mktemp("prepared")) as prepared:
        yield prepared


def use(prepared: Prepared, settings: LazySettings) -> None:
    """Set the coordinator up as compose.yaml does."""
    settings.REDIS_URL = prepared.coordinator_url
    settings.REDIS_ACL_URL = prepared.provisioner_url
    settings.REDIS_PUBLIC_URL = prepared.public_url
    settings.REDIS_CA_FILE = prepared.authority


@pytest.fixture
def on_prepared(prepared: Prepared, settings: LazySettings) -> Prepared:
    use(prepared, settings)
    return prepared


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(url: str, *command: str, **options: str) -> bool:
    with redis.Redis.from_url(url, **options) as client:
        try:
            client.execute_command(*command)
        except redis.exceptions.NoPermissionError:
            return True
    return False


def test_nobody_enters_without_an_account(prepared: Prepared):
    tls = {"ssl_ca_certs": prepared.authority} if prepared.has_tls else {}
    with redis.Redis.from_url(prepared.public_url, **tls) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with (
        redis.Redis.from_url(prepared.url("coordinator", "guess")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    with redis.Redis.from_url(prepared.url("default", "")) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_the_coordinator_works_its_queues_and_administers_nothing(prepared: Prepared):
    with redis.Redis.from_url(prepared.coordinator_url) as client:
        client.lpush("control", "task")
        client.lpush("w:1:jobs", "bell")
        client.xadd("fai:engine:stream:1", {"text": "token"})
        client.publish("channel", "word")
        assert client.llen("control") == 1
    for command in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["ACL", "LIST"], ["KEYS", "*"], ["SHUTDOWN"], ["MONITOR"]):
        assert refused(prepared.coordinator_url, *command), command


def test_the_provisioner_makes_accounts_and_sees_no_data(prepared: Prepared):
    with redis.Redis.from_url(prepared.provisioner_url) as client:
        client.execute_command("ACL", "SETUSER", "w1", "on", ">secret", "~w:1:jobs", "-@all", "+ping")
        client.execute_command("ACL", "SAVE")
        client.execute_command("ACL", "DELUSER", "w1")
    for command in (["GET", "x"], ["LPUSH", "w:1:jobs", "x"], ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"]):
        assert refused(prepared.provisioner_url, *command), command


def test_a_device_waits_on_its_own_queue_and_does_nothing_else(on_prepared: Prepared):
    account = broker.public_account(device_id=42, password=broker.grant(42))
    with redis.Redis.from_url(on_prepared.coordinator_url) as client:
        client.lpush(account.queue, "bell")
    tls = {"ssl_ca_data": account.ca_certificate} if on_prepared.has_tls else {}
    with redis.Redis.from_url(account.url, **tls) as client:
        assert client.brpop([account.queue], timeout=1) == (account.queue.encode(), b"bell")
    for command in (["BRPOP", "w:43:jobs", "1"], ["LPUSH", account.queue, "x"], ["GET", "x"], ["ACL", "WHOAMI"]):
        assert refused(account.url, *command, **tls), command


def test_a_device_connects_as_the_volunteers_program_does(on_prepared: Prepared):
    account = broker.public_account(device_id=7, password=broker.grant(7))
    settings = connection_settings(account)
    with kombu.Connection(settings["broker_url"], ssl=settings["broker_use_ssl"]) as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        assert connection.connected


async def test_every_client_of_the_coordinator_understands_the_url(prepared: Prepared):
    def connect_as_celery() -> bool:
        with kombu.Connection(prepared.coordinator_url) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            return bool(connection.connected)

    assert await asyncio.to_thread(connect_as_celery)
    async with redis.asyncio.Redis.from_url(prepared.coordinator_url) as client:
        assert await client.ping()


def test_accounts_outlive_a_restart_and_another_preparation(tmp_path: Path, settings: LazySettings):
    with prepared_redis(tmp_path) as first:
        use(first, settings)
        account = broker.public_account(device_id=42, password=broker.grant(42))
        saved = (tmp_path / "redis" / "users.acl").read_text()
        assert "user w42 " in saved
        assert prepare(tmp_path) == ""
        assert (tmp_path / "redis" / "users.acl").read_text() == saved

    changed = {**PASSWORDS, "REDIS_COORDINATOR_PASSWORD": "coordinator-9876543210"}
    assert prepare(tmp_path, passwords=changed) == ""
    second = Prepared(root=tmp_path, port=free_port(), has_tls=first.has_tls)
    server = subprocess.Popen([find_executable(), write_conf(second)], stdout=subprocess.DEVNULL)
    try:
        tls = {"ssl_ca_data": account.ca_certificate} if first.has_tls else {}
        wait_for(account.url.replace(f":{first.port}/", f":{second.port}/"), **tls)
        wait_for(second.url("coordinator", changed["REDIS_COORDINATOR_PASSWORD"]))
        with redis.Redis.from_url(second.coordinator_url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    finally:
        stop(server)


def wait_for(url: str, **options: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(url, **options) as client:
        while True:
            try:
                client.ping()
            except redis.AuthenticationError:
                raise
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return


def test_the_certificate_passes_the_strictest_check(prepared: Prepared):
    if not prepared.has_tls:
        pytest.skip("this machine's Redis was built without TLS")
    context = ssl.create_default_context(cafile=prepared.authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("localhost", "redis"):
        with (
            socket.create_connection(("127.0.0.1", prepared.port)) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            assert secure.version() in {"TLSv1.2", "TLSv1.3"}
    with socket.create_connection(("127.0.0.1", prepared.port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(plain, server_hostname="fai.example.org")


def test_a_certificate_stays_until_the_host_changes_and_its_authority_for_good(tmp_path: Path):
    def contents() -> tuple[bytes, bytes, bytes]:
        files = ("redis/redis.pem", "broker-ca/ca.crt", "authority/authority.pem")
        certificate, public, authority = ((tmp_path / file).read_bytes() for file in files)
        return certificate, public, authority

    prepare(tmp_path, host="fai.example.org")
    first = contents()
    prepare(tmp_path, host="fai.example.org")
    assert contents() == first
    prepare(tmp_path, host="192.0.2.1")
    second = contents()
    assert second[0] != first[0]
    assert second[1:] == first[1:]
    prepare(tmp_path, host="192.0.2.1")
    assert contents() == second


def test_only_the_authoritys_certificate_is_for_others_to_read(tmp_path: Path):
    prepare(tmp_path)
    readable = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077}
    assert readable == {"ca.crt"}
    assert (tmp_path / "redis" / "data").stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in (tmp_path / "broker-ca" / "ca.crt").read_text()


@pytest.mark.parametrize("password", ["", "short", "has a space in the middle", "slash/and@in-a-long-password"])
def test_a_password_that_is_weak_or_breaks_a_url_is_refused_and_nothing_is_written(tmp_path: Path, password: str):
    complaint = prepare(tmp_path, passwords={**PASSWORDS, "REDIS_PROVISIONER_PASSWORD": password})
    assert "provisioner" in complaint
    assert "openssl rand" in complaint
    assert "Traceback" not in complaint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_password_stands_in_the_accounts_file(tmp_path: Path):
    prepare(tmp_path)
    text = (tmp_path / "redis" / "users.acl").read_text()
    assert not [password for password in PASSWORDS.values() if password in text]
