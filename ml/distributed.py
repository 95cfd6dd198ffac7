"""One training on several processes of this machine: nccl between GPUs, gloo between CPUs.

The process that was started trains nothing: it starts the ranks, hands on what the first one tells, and ends them all
when one of them is gone, for which the others would wait for ever.
"""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import distributed
from torch import multiprocessing as processes

from ml.bad_input import BadInput
from ml.hardware import Hardware, limit_threads, rows_per_batch
from ml.training_job import Job, Observer, Outcome, Plan, Progress
from ml.training_loop import run_loop, with_micro_batch

POLL_SECONDS = 0.2
GRACE_SECONDS = 2.0
"""How long after a failure the first cause is waited for: a killed rank is noticed by its peers first."""
TIMEOUT = timedelta(hours=1)
"""How long ranks wait for the first one, which alone evaluates and saves."""


class DevicesUnavailable(BadInput):
    """More devices than there are, or than a batch can be shared by."""

    page: ClassVar[str] = "configuration"


class RankDied(BadInput):
    """A process that ended before the training did."""

    page: ClassVar[str] = "training"


@dataclass(frozen=True, slots=True)
class _Rank:
    number: int
    process: SpawnProcess
    connection: "Connection[Any, Any]"


def check_devices(job: Job, hardware: Hardware) -> None:
    """Raises: DevicesUnavailable."""
    if job.devices == 1:
        return
    available = {"cuda": torch.cuda.device_count(), "mps": 1, "cpu": hardware.cores}[hardware.device]
    kind = {"cuda": "GPUs", "mps": "Apple GPU", "cpu": "CPU cores"}[hardware.device]
    if not 1 <= job.devices <= available:
        raise DevicesUnavailable(
            f"--devices {job.devices} is not possible on this machine, which has {available} {kind}: give --devices "
            f"1 to {available}."
        )
    num_rows, block_size = rows_per_batch(job.config.model, job.config.optimizer), job.config.model.block_size
    if num_rows % job.devices:
        fitting = -(-num_rows // job.devices) * job.devices * block_size
        raise DevicesUnavailable(
            f"--devices {job.devices} cannot share the {num_rows} rows of {block_size} tokens of a step evenly: give "
            f"--set optimizer.batch_tokens={fitting}."
        )


def run_ranks(
    job: Job, *, on_plan: Callable[[Plan], Any], on_step: Callable[[Progress], Any], wish: threading.Event
) -> Outcome:
    """Train on job.devices processes; where `wish` is set, they save after the present step and end.

    Raises: RankDied; what run_loop raises.
    """
    with tempfile.TemporaryDirectory(prefix="fai-ranks-") as folder, _started(job, Path(folder)) as ranks:
        failure, is_told = "", False
        while True:
            if wish.is_set() and not is_told:
                ranks[0].connection.send("stop")
                is_told = True
            # Asked before the messages: whatever the dead have told is then among them.
            is_any_dead = any(rank.process.exitcode for rank in ranks)
            for message in _messages(ranks):
                match message:
                    case Plan():
                        on_plan(message)
                    case Progress():
                        on_step(message)
                    case Outcome():
                        # All is saved: a rank that torch aborts while it tears its threads down takes nothing along.
                        return message
                    case BadInput():
                        raise message
                    case str():
                        failure = message
            if is_any_dead:
                raise _death(ranks, failure)
            wait([rank.process.sentinel for rank in ranks if rank.process.exitcode is None], POLL_SECONDS)


@contextmanager
def _started(job: Job, folder: Path) -> Iterator[list[_Rank]]:
    """The ranks, none of which outlives the block."""
    context = processes.get_context("spawn")
    num_threads = max(1, torch.get_num_threads() // job.devices)
    ranks: list[_Rank] = []
    try:
        for number in range(job.devices):
            ours, theirs = context.Pipe()
            process = context.Process(target=_run_rank, args=(job, number, folder, num_threads, theirs), daemon=True)
            process.start()
            # The rank holds the only other end, so that it hears of our death, and we of its.
            theirs.close()
            ranks.append(_Rank(number, process, ours))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
        for rank in ranks:
            rank.process.join()


def _messages(ranks: list[_Rank]) -> Iterator[Any]:
    """What the ranks have told so far."""
    for rank in ranks:
        try:
            while rank.connection.poll():
                yield rank.connection.recv()
        except (EOFError, ConnectionResetError):
            continue


def _death(ranks: list[_Rank], failure: str) -> RankDied:
    """The error that names the rank that went first, as far as can be told."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and not any((rank.process.exitcode or 0) < 0 for rank in ranks):
        time.sleep(POLL_SECONDS)
    killed = [rank for rank in ranks if (rank.process.exitcode or 0) < 0]
    first = (killed or [rank for rank in ranks if rank.process.exitcode] or ranks)[0]
    if killed:
        cause = f"was ended by {signal.Signals(-(first.process.exitcode or 0)).name}"
        cause += ", as happens when the memory runs out" if first.process.exitcode == -signal.SIGKILL else ""
    else:
        cause = f"failed ({failure.splitlines()[0]})" if failure else f"ended with code {first.process.exitcode}"
    return RankDied(
        f"Process {first.number + 1} of {len(ranks)} {cause}, so the others were ended too: add --resume to the same "
        "command, which goes on from the last checkpoint."
    )


def _run_rank(job: Job, number: int, folder: Path, num_threads: int, connection: "Connection[Any, Any]") -> None:
    """A rank's whole life, in its own process."""
    # Ctrl+C reaches every process of the terminal; the one that was started decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(num_threads)
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(number)
    observer = Observer(on_plan=connection.send, on_step=connection.send, wants_stop=connection.poll)
    try:
        # The search for a micro-batch steps on its own: in a group, each step would wait for the other ranks.
        own_job = with_micro_batch(job) if number == 0 else job
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
            init_method=(folder / "store").as_uri(),
            rank=number,
            world_size=job.devices,
            timeout=TIMEOUT,
        )
        outcome = run_loop(own_job, observer)
        if number == 0:
            connection.send(outcome)
        distributed.destroy_process_group()
    except BadInput as problem:
        connection.send(problem)
    except RuntimeError as error:
        # Its own, or that a peer is gone.
        connection.send(f"{error}")
        raise SystemExit(1) from error
