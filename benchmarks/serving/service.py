"""The whole service (HTTP, key, bill, stream) against its own engine's rate, on two cores that all of it shares.

python -m benchmarks.serving.service [--quick] [--preset m4] [--repeats 5] [--threads N]

Web process, control plane, Redis, database, engine and clients are real, each a process of its own. The engine's own
rate is taken in the same run, in turn with the service's.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.serving.service_load import Stream, play
from benchmarks.serving.service_process import (
    MAX_TOKENS,
    NUM_CORES,
    NUM_STREAMS,
    MeasuredService,
    OwnRate,
    body,
    keep_to_cores,
    started,
)
from benchmarks.serving.service_rows import PRICE
from benchmarks.tables import Goal, print_goals, print_table

NUM_CROWD = 64
GOAL_SHARE = 0.7
GOAL_FIRST_TOKEN_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The engine alone, and right after it the service. Units: tokens a second."""

    own_rate: float
    streams: list[Stream]
    cpu_seconds: dict[str, float]
    """Of the service's processes, by their names."""

    @property
    def rate(self) -> float:
        seconds = max(stream.ended_at for stream in self.streams) - min(stream.began_at for stream in self.streams)
        return sum(stream.tokens for stream in self.streams) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all?")
    parser.add_argument("--preset", default="m4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the service's engine; default: its own choice")
    options = parser.parse_args()
    keep_to_cores(NUM_CORES)
    num_rounds, repeats, num_crowd = (1, 1, 16) if options.quick else (4, options.repeats, NUM_CROWD)
    with started(options.preset, options.threads) as service:
        rounds = measure_rounds(service, num_rounds=num_rounds, repeats=repeats)
        crowd = measure(service, own_rate=0.0, num_streams=num_crowd, num_connections=num_crowd)
        bills = service.read_bills()
    everything = [each for measured in [*rounds, crowd] for each in measured.streams]
    report(options.preset, rounds, crowd, wrong_bills(everything, bills))


def measure_rounds(service: MeasuredService, *, num_rounds: int, repeats: int) -> list[Round]:
    """The engine alone and the service in turn; the first of each is not counted."""
    with OwnRate(service.checkpoint, num_rounds=num_rounds, environment=service.environment) as own:
        own.measure()
        measure(service, own_rate=0.0, num_streams=NUM_STREAMS)
        return [measure(service, own_rate=own.measure(), num_streams=NUM_STREAMS * num_rounds) for _ in range(repeats)]


def measure(
    service: MeasuredService, *, own_rate: float, num_streams: int, num_connections: int = NUM_STREAMS
) -> Round:
    before = service.cpu_seconds()
    bodies = [body(number, max_tokens=MAX_TOKENS) for number in range(num_streams)]
    streams = play(bodies, port=service.port, api_key=service.keys["rich"], num_connections=num_connections)
    spent = {name: seconds - before[name] for name, seconds in service.cpu_seconds().items()}
    return Round(own_rate=own_rate, streams=streams, cpu_seconds=spent)


def wrong_bills(streams: Sequence[Stream], report: dict[str, Any]) -> list[str]:
    """One sentence for every stream that was billed another way than its client was told."""
    wrong = [f"{violation}" for violation in report["violations"]]
    if report["held"]["rich"]:
        wrong.append(f"{report['held']['rich']} credits are still held")
    for each in streams:
        told = [each.usage.get("prompt_tokens"), each.usage.get("completion_tokens")]
        due = ["done", *told, PRICE * each.usage.get("total_tokens", 0)]
        if each.error:
            wrong.append(each.error)
        elif report["bills"].get(each.completion_id) != due:
            wrong.append(f"{each.completion_id}: billed {report['bills'].get(each.completion_id)}, not {due}")
    return wrong


def report(preset: str, rounds: Sequence[Round], crowd: Round, wrong: Sequence[str]) -> None:
    eight = [each for measured in rounds for each in measured.streams]
    share = statistics.median(measured.rate / measured.own_rate for measured in rounds)
    first = percentile([each.first_token_seconds for each in crowd.streams if not each.error], 95)
    print_goals(
        Goal(
            measured=f"{share:.0%}",
            wanted=f"at least {GOAL_SHARE:.0%}",
            reached=share >= GOAL_SHARE,
            what=f"{preset}, the service with {NUM_STREAMS} streams, of its engine's own rate",
        ),
        Goal(
            measured=f"{first:.2f} s",
            wanted=f"under {GOAL_FIRST_TOKEN_SECONDS:.0f} s",
            reached=first < GOAL_FIRST_TOKEN_SECONDS,
            what=f"{preset}, {len(crowd.streams)} streams, p95 of the time to the first token",
        ),
        Goal(
            measured=str(len(wrong)),
            wanted="none",
            reached=not wrong,
            what=f"errors and wrong bills among {len(eight) + len(crowd.streams)} streams",
        ),
    )
    print_table(
        ("", "tokens/s", "first token p50", "p95", "between chunks p50", "p95", "tokens a chunk"),
        [
            ("engine alone, batch 8", f"{statistics.median(each.own_rate for each in rounds):,.0f}", *[""] * 5),
            ("service, 8 streams", f"{statistics.median(each.rate for each in rounds):,.0f}", *latencies(eight)),
            (f"service, {len(crowd.streams)} streams", f"{crowd.rate:,.0f}", *latencies(crowd.streams)),
        ],
    )
    print_table(
        ("microseconds of a core per token", *crowd.cpu_seconds),
        [("8 streams", *cpu_per_token(rounds)), (f"{len(crowd.streams)} streams", *cpu_per_token([crowd]))],
    )
    for sentence in wrong[:5]:
        print(sentence)


def cpu_per_token(rounds: Sequence[Round]) -> list[str]:
    num_tokens = sum(each.tokens for measured in rounds for each in measured.streams)
    totals = [sum(measured.cpu_seconds[name] for measured in rounds) for name in rounds[0].cpu_seconds]
    return [f"{1e6 * seconds / num_tokens:.0f}" for seconds in totals]


def latencies(streams: Sequence[Stream]) -> list[str]:
    whole = [each for each in streams if not each.error]
    first = [each.first_token_seconds for each in whole]
    between = [after - before for each in whole for before, after in pairwise(each.arrivals)]
    num_tokens, num_chunks = sum(each.tokens for each in whole), sum(len(each.arrivals) for each in whole)
    times = [percentile(values, share) for values in (first, between) for share in (50, 95)]
    return [*(f"{1e3 * seconds:.0f} ms" for seconds in times), f"{num_tokens / num_chunks:.1f}"]


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100)[share - 1]


if __name__ == "__main__":
    main()
