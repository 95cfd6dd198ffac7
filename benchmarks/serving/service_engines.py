"""What a second machine adds: tokens a second of the whole service with one engine, and with two on the same queue.

python -m benchmarks.serving.service_engines [--quick] [--preset m4] [--repeats 5]

On one machine a second engine would take the cores of the first. So each is held to a share of a core: it stands still
while it is ahead of so much CPU time. What it has is its own, as on a machine of its own, and all the rest shares the
other cores' time.
"""

import argparse
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from benchmarks.serving.service_load import play
from benchmarks.serving.service_process import (
    MAX_TOKENS,
    NUM_CORES,
    NUM_STREAMS,
    START_SECONDS,
    MeasuredService,
    ServiceNotReady,
    body,
    keep_to_cores,
    started,
)
from benchmarks.tables import Goal, print_goals, print_table
from inference import wire
from inference.status import EngineStatus

SHARE = 0.2
NUM_CONNECTIONS = 3 * NUM_STREAMS
"""More than both engines' places: no place waits for the next request."""
LOOK_SECONDS = 0.002
CPUCLOCK_SCHED = 2
"""Of a process's CPU time, as clock_getcpuclockid(3) makes its clock from its number."""
GOAL_RATIO = 1.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: does it run at all?")
    parser.add_argument("--preset", default="m4")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_to_cores(NUM_CORES)
    with started(options.preset, 1, num_slots=NUM_STREAMS) as service:
        rounds = [measure_round(service) for _ in range(1 if options.quick else options.repeats)]
    ratio = statistics.median(two / one for one, two in rounds)
    print_goals(
        Goal(
            measured=f"{ratio:.2f}x",
            wanted=f"at least {GOAL_RATIO}x",
            reached=ratio >= GOAL_RATIO,
            what=f"{options.preset}, tokens/s of two engines over one, {NUM_CONNECTIONS} streams",
        )
    )
    print_table(
        ("engines", "tokens/s, median", "least", "most"),
        [
            (f"{number}", *(f"{figure(rates):,.0f}" for figure in (statistics.median, min, max)))
            for number, rates in enumerate(zip(*rounds, strict=True), start=1)
        ],
    )
    print(f"Each engine has {SHARE:.0%} of a core and {NUM_STREAMS} places, {len(rounds)} repeats in turn")


def measure_round(service: MeasuredService) -> tuple[float, float]:
    """Tokens a second of one engine, and of two."""
    with held(service, "engine"):
        one = rate(service)
    with second_engine(service), held(service, "engine"), held(service, "second"):
        return one, rate(service)


@contextmanager
def second_engine(service: MeasuredService) -> Iterator[None]:
    """Raises: ServiceNotReady."""
    service.start_engine("second")
    deadline = time.monotonic() + START_SECONDS
    try:
        while num_serving(service) < 2:
            service.check()
            if time.monotonic() > deadline:
                raise ServiceNotReady("the second engine does not serve")
            time.sleep(0.2)
        yield
    finally:
        service.parts.pop("second").stop()


def num_serving(service: MeasuredService) -> int:
    with Redis.from_url(service.redis.url, decode_responses=True) as redis:
        members: Any = redis.smembers(wire.ENGINES_KEY)
        told: list[Any] = [redis.get(wire.alive_key(engine_id)) for engine_id in members]
    return sum(bool(EngineStatus.decode(status).models) for status in told if status is not None)


@contextmanager
def held(service: MeasuredService, engine: str) -> Iterator[None]:
    """The engine gets SHARE of a core."""
    pid, over = service.parts[engine].pid, threading.Event()
    assert pid is not None

    def hold(pid: int) -> None:
        cpu_clock = (~pid << 3) | CPUCLOCK_SCHED
        begun_at, begun_cpu = time.monotonic(), time.clock_gettime(cpu_clock)
        while not over.wait(LOOK_SECONDS):
            allowed = SHARE * (time.monotonic() - begun_at)
            has_had_it = time.clock_gettime(cpu_clock) - begun_cpu > allowed
            os.kill(pid, signal.SIGSTOP if has_had_it else signal.SIGCONT)
        os.kill(pid, signal.SIGCONT)

    holder = threading.Thread(target=hold, args=(pid,))
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()


def rate(service: MeasuredService) -> float:
    """Units: tokens a second."""
    bodies = [body(number, max_tokens=MAX_TOKENS) for number in range(2 * NUM_CONNECTIONS)]
    streams = play(bodies, port=service.port, api_key=service.keys["rich"], num_connections=NUM_CONNECTIONS)
    if errors := [stream.error for stream in streams if stream.error]:
        raise ServiceNotReady(errors[0])
    seconds = max(stream.ended_at for stream in streams) - min(stream.began_at for stream in streams)
    return sum(stream.tokens for stream in streams) / seconds


if __name__ == "__main__":
    main()
