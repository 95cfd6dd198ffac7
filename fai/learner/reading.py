"""What the commands that read samples share: the option --jsonl, how far they are, and what they could not read."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ml.samples import Sample, SkippedLine

MAX_SKIPPED = 10


def add_jsonl(parser: argparse.ArgumentParser) -> None:
    """Documents besides the samples."""
    parser.add_argument(
        "--jsonl",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help='documents besides, {"text": ...} on each line; or folders of such files',
    )


def track_samples(samples: Sequence[Sample], title: str) -> Iterable[Sample]:
    """The samples, with what is done of them under the title."""
    console = Console(stderr=True)
    if console.is_terminal:
        return track(samples, title, console=console, transient=True)
    console.print(f"{title}: {len(samples):,} documents")
    return samples


def print_skipped(skipped: Sequence[SkippedLine]) -> None:
    """The first lines by number and reason, and how many there are, on the error stream."""
    for line in skipped[:MAX_SKIPPED]:
        print(f"{line.file}, line {line.line}: {line.reason}; skipped.", file=sys.stderr)
    if skipped:
        print(f"Lines skipped: {len(skipped):,}.", file=sys.stderr)
