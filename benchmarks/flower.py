"""Flower in an environment of its own, beside which a merge is measured: what it needs must not meet what FAI needs."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.merging import WeightedDelta

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".state" / "flower"
PYTHON = VENV / "bin" / "python"
SCRIPT = Path(__file__).with_name("flower_fedavg.py")


class FlowerMissing(Exception):
    """Flower cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """What Flower's FedAvg took; the time is of the averaging alone, its arrays being in memory already."""

    seconds: float
    peak_bytes: int
    """Of the process."""
    version: str


def run_fedavg(deltas: Sequence[WeightedDelta], result_path: Path) -> FlowerRun:
    """Average dense deltas; float32 values of the mean go to `result_path`, the parameters in order of name.

    Raises: FlowerMissing.
    """
    install()
    weighted = json.dumps([(str(delta.path), delta.weight) for delta in deltas])
    command = [PYTHON, SCRIPT, result_path]
    # Flower logs to standard error.
    ended = subprocess.run(command, input=weighted, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise FlowerMissing(f"Flower's FedAvg failed: {last_line(ended.stderr)}")
    return FlowerRun(**json.loads(ended.stdout.splitlines()[-1]))


def install() -> None:
    """Make the environment on first use.

    Raises: FlowerMissing.
    """
    wanted = requirements()
    stamp = VENV / "installed"
    if stamp.exists() and stamp.read_text("utf-8") == str(wanted):
        return
    print(f"installing {', '.join(wanted)} into {VENV.relative_to(ROOT)} (only this first time)", file=sys.stderr)
    _run(sys.executable, "-m", "venv", VENV)
    _run(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted)
    stamp.write_text(str(wanted), encoding="utf-8")


def requirements() -> list[str]:
    """The extra `bench`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return list(project["optional-dependencies"]["bench"])


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _run(*command: str | Path) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise FlowerMissing(f"Flower could not be installed into {VENV.name}: {last_line(ended.stderr)}")
