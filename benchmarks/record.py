"""The record of what was measured: docs/experiments.md, whose tables stand between marks."""

import importlib.metadata
import re
from datetime import UTC, datetime
from pathlib import Path

from ml import hardware

RECORD = Path(__file__).resolve().parent.parent / "docs" / "experiments.md"


class PlaceMissing(Exception):
    """The record has no one place for a benchmark's tables."""


def write(name: str, output: str) -> None:
    """Put a benchmark's tables, and where they were measured, between its marks in the record.

    Raises: PlaceMissing.
    """
    begin, end = f"<!-- measured: {name} -->\n", "<!-- end -->"
    pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    text, num_places = pattern.subn(
        lambda marks: f"{marks[1]}\n{output.strip()}\n\n{place()}\n\n{marks[2]}", RECORD.read_text("utf-8")
    )
    if num_places != 1:
        raise PlaceMissing(f"{RECORD.name} has {num_places} places for {name}, not one: {begin.strip()} {end}")
    RECORD.write_text(text, encoding="utf-8")


def place() -> str:
    """Date, machine and torch of a measurement."""
    machine = hardware.detect()
    torch = importlib.metadata.version("torch")
    return f"*{datetime.now(UTC):%Y-%m-%d}, {machine.cores} cores, {machine.name}, torch {torch}*"
