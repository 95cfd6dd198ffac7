"""Tells which lines of JSONL files were left out."""

import sys
from collections.abc import Sequence

from ml.samples import SkippedLine

SHOWN = 10


def print_skipped(skipped: Sequence[SkippedLine]) -> None:
    """The first lines by number and reason, and how many there are, on the error stream."""
    for line in skipped[:SHOWN]:
        print(f"{line.file}, line {line.line}: {line.reason}; skipped.", file=sys.stderr)
    if skipped:
        print(f"Lines skipped: {len(skipped):,}.", file=sys.stderr)
