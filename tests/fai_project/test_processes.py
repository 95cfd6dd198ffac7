"""Children end with us, whichever way we end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fai_project.processes import Process, ProcessDied

SLEEP = ["sh", "-c", "sleep 60 & echo $!; wait"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.05)


def first_number(log: Path) -> int:
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text("ascii").strip()):
        assert time.monotonic() < deadline, "the child wrote nothing"
        time.sleep(0.05)
    return int(log.read_text("ascii").split()[0])


def test_stopping_ends_the_child_and_what_it_left(tmp_path: Path) -> None:
    child = Process("sleeper", SLEEP, environment=dict(os.environ), log=tmp_path / "log")
    child.start()
    grandchild = first_number(tmp_path / "log")
    assert child.is_running
    child.stop()
    assert not child.is_running
    wait_until_gone(grandchild)


def test_killing_leaves_no_orphan(tmp_path: Path) -> None:
    child = Process("sleeper", SLEEP, environment=dict(os.environ), log=tmp_path / "log")
    child.start()
    grandchild = first_number(tmp_path / "log")
    child.kill()
    wait_until_gone(grandchild)


def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys, time; from fai_project.processes import Process; "
        f"p = Process('s', {SLEEP!r}, environment=dict(os.environ), log=pathlib.Path(sys.argv[1])); "
        "p.start(); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")])
    grandchild = first_number(tmp_path / "log")
    parent.kill()
    parent.wait()
    wait_until_gone(grandchild)


def test_an_unexpected_end_is_told_with_the_last_words(tmp_path: Path) -> None:
    child = Process("talker", ["sh", "-c", "echo no room; exit 3"], environment={}, log=tmp_path / "log")
    child.start()
    assert child.wait(10) == 3
    with pytest.raises(ProcessDied, match="no room"):
        child.check()
