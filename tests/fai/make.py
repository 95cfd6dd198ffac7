"""What the tests of the volunteer's side are made of."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import redis
import torch
from celery import Celery
from kombu.entity import Queue

from fai.client import Client
from fai.contact import PatientContact
from fai.screen import View
from fai.speed import Speed, Speeds
from fai_project.redis_server import RedisServer
from ml import hardware
from ml.checkpoint import save_model
from ml.config import InnerConfig, ModelConfig
from ml.model import initial_model
from ml.protocol import TRAIN_TASK, BlobRef, JobSpec, Report, ShardRef, queue_name
from tests.fai.coordinator import API_KEY, Attempt, Coordinator

MODEL = ModelConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_kv_head=2, n_embd=16)
WIDE = MODEL.replace(n_embd=64)
"""Its embedding is one block of a sparse codec."""
INNER = InnerConfig(batch_tokens=64, warmup_steps=2)
NUM_SHARD_TOKENS = 4_096


class RecordingScreen:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.language = "en"
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.view = View()

    def say(self, key: str, **values: Any) -> None:
        self.said.append((key, values))

    def show(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.view, name, value)

    def close(self) -> None:
        """Nothing is open."""

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.said]


def make_client(coordinator: Coordinator, *, api_key: str | None = API_KEY) -> Client:
    return Client(server_url=coordinator.url, api_key=api_key, contact=PatientContact())


def make_report(*, tokens: int = 640, partial: bool = False) -> Report:
    return Report(
        tokens=tokens,
        num_steps=10,
        seconds=1.0,
        first_loss=4.0,
        last_loss=3.0,
        tokens_per_second=640.0,
        partial=partial,
    )


def make_attempt(
    coordinator: Coordinator, folder: Path, *, attempt_id: int = 1, token_budget: int = 640, **changes: Any
) -> Attempt:
    """An offered attempt on a tiny model whose files the coordinator has."""
    base_path, shard_path = folder / "base.safetensors", folder / "shard.bin"
    save_model(initial_model(WIDE if changes.get("model") == WIDE else MODEL, 0), base_path)
    np.random.default_rng(0).integers(MODEL.vocab_size, size=NUM_SHARD_TOKENS).astype("<u2").tofile(shard_path)
    base, shard = base_path.read_bytes(), shard_path.read_bytes()
    values: dict[str, Any] = {
        "attempt_id": attempt_id,
        "experiment": "tiny",
        "round_number": 1,
        "model": MODEL,
        "inner": INNER,
        "codec": "int8",
        "base": BlobRef(sha256=coordinator.put_blob(base), size_bytes=len(base)),
        "steps": (),
        "shard": ShardRef(
            sha256=coordinator.put_blob(shard), size_bytes=len(shard), num_tokens=NUM_SHARD_TOKENS, dtype="uint16"
        ),
        "token_budget": token_budget,
        "train_seconds": 600,
        "seed": 1,
        "progress_start": 0.0,
        "progress_end": 0.25,
        "quoted_credits": 7,
        "max_delta_bytes": 10**6,
        "lease_seconds": 150,
        "heartbeat_seconds": 30,
    }
    attempt = Attempt(spec=JobSpec(**values | changes))
    coordinator.attempts[attempt_id] = attempt
    return attempt


def make_experiment(*, state: str = "running") -> dict[str, Any]:
    return {"slug": "tiny", "title": "Tiny", "state": state, "model": MODEL.to_dict(), "inner": INNER.to_dict()}


def grant_account(server: RedisServer, device_id: int) -> str:
    """URL of a fresh broker account with the least rights."""
    password = secrets.token_urlsafe(16)
    rules = ("reset", "on", f">{password}", f"~{queue_name(device_id)}", "-@all", "+ping", "+brpop")
    with redis.Redis.from_url(server.acl_url) as admin:
        admin.execute_command("ACL", "DELUSER", f"w{device_id}")
        admin.execute_command("ACL", "SETUSER", f"w{device_id}", *rules)
        admin.execute_command("ACL", "SAVE")
    return server.public_url.replace("redis://", f"redis://w{device_id}:{password}@")


def ring(server: RedisServer, *, attempt_id: int, nonce: str = "nonce", device_id: int = 1) -> None:
    """Send the message of an offer, as the coordinator does."""
    name = queue_name(device_id)
    with Celery("test", broker=server.url, set_as_current=False) as app:
        queue: Any = Queue(name, exchange="", routing_key=name, no_declare=True)  # type: ignore[no-untyped-call]
        app.send_task(TRAIN_TASK, args=[attempt_id, nonce], queue=queue, retry=False)


def remember_speed(cache_dir: Path) -> None:
    """Spare a worker with one thread the measuring."""
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        cache_dir.mkdir(parents=True, exist_ok=True)
        speeds = Speeds(cache_dir / "speeds.json", machine=hardware.detect())
        for model in (MODEL, WIDE):
            speeds.observe(model, INNER, Speed(micro_batch=4, tokens_per_second=10_000.0))
    finally:
        torch.set_num_threads(num_threads)


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class WorkerProcess:
    """`celery -A fai worker` as a volunteer starts it; its lines are read as they come."""

    def __init__(self, coordinator: Coordinator, folder: Path, *, command: list[str] | None = None, **env: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FAI_")}
        environment |= {
            "FAI_SERVER_URL": coordinator.url,
            "FAI_API_KEY": API_KEY,
            "FAI_CONFIG_DIR": str(folder / "config"),
            "FAI_CACHE_DIR": str(folder / "cache"),
            "FAI_DEVICE": "test",
            "FAI_LANG": "en",
            "FAI_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        program = str(Path(sys.executable).parent / "celery")
        self.process = subprocess.Popen(
            command or [program, "-A", "fai", "worker"],
            env={name: value for name, value in (environment | env).items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def has_said(self, event: str) -> bool:
        return any(f'"event": "{event}"' in line for line in self.lines)

    def wait_for(self, event: str, *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not self.has_said(event):
            assert time.monotonic() < deadline, f"no {event} in:\n{self.output}"
            assert self.process.poll() is None, f"ended without {event}:\n{self.output}"
            time.sleep(0.02)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self, *, seconds: float = 20.0) -> int:
        """Exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.output}") from None
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
