"""The control plane's worker as a real process."""

import os
import subprocess
import sys
import time
from pathlib import Path

from celery import Celery
from redis import Redis

COMMAND = ("-m", "celery", "-A", "fai_project", "worker", "--pool", "threads", "--concurrency", "1", "-Q", "data")
FLAGS = ("--without-gossip", "--without-mingle", "--loglevel", "INFO")


def wait_for(words: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while words not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.1)


def test_the_control_plane_outlives_a_redis_that_refuses_to_write(refusing_redis: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "FAI_REDIS_URL": refusing_redis, "FAI_STATE_DIR": str(tmp_path)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *COMMAND, *FLAGS], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for("Connection to broker lost", log, process)
        Redis.from_url(refusing_redis).config_set("min-replicas-to-write", 0)
        with Celery(broker=refusing_redis, set_as_current=False) as app:
            app.send_task("unknown", queue="data")
        wait_for("unregistered task of type 'unknown'", log, process)
    finally:
        process.terminate()
        process.wait(20)
