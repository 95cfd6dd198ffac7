"""Clean raw files into samples: DATA/samples/, DATA/samples.txt and DATA/prepare-report.json.

Reads .md .mdx .markdown .dart .py .txt .log .rst .html and .htm files in any encoding. What each rule does is in the
report, which names every file that was left out or changed.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ml.preparation import REPORT_FILE, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("raw", metavar="RAW", type=Path, nargs="+", help="folder with a folder of files for each site")
    parser.add_argument("--out", metavar="DATA", type=Path, required=True, help="folder for the samples")
    parser.add_argument("--force", action="store_true", help="replace samples that are there already")


def run(arguments: argparse.Namespace) -> None:
    with _counting() as show:
        summary = prepare(arguments.raw, out=arguments.out, force=arguments.force, progress=show)
    _show(summary, arguments.out)


@contextlib.contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """Shows how many files are done, on a terminal; how many there are is known at the end."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print("Cleaning ...")
        yield lambda num_files: None
        return
    with console.status("Cleaning") as status:
        yield lambda num_files: status.update(f"Cleaning: {num_files:,} files")


def _show(summary: dict[str, Any], out: Path) -> None:
    console = Console()
    totals = summary["totals"]
    sites = _table("site", "files", "left out", "changed", "characters", "documents")
    for name, counts in summary["sites"].items():
        languages = ", ".join(f"{language} {count:,}" for language, count in counts["languages"].items())
        sites.add_row(name, *_counts(counts), languages)
    sites.add_section()
    sites.add_row("all", *_counts(totals), f"{totals['kept']:,}")
    reasons = _table("reason", "files", "times", "what")
    for name, counts in summary["reasons"].items():
        reasons.add_row(name, f"{counts['files']:,}", f"{counts['times']:,}", counts["what"])
    console.print(sites, reasons, sep="\n")
    console.print(
        f"{totals['kept']:,} documents in {out}; every file is named in {out / REPORT_FILE}",
        markup=False,
        soft_wrap=True,
    )


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for name in columns:
        is_words = name in ("documents", "what")
        table.add_column(name, justify="left" if is_words else "right", overflow="fold")
    return table


def _counts(counts: dict[str, int]) -> tuple[str, ...]:
    names = ("files", "left_out", "changed", "characters_out")
    return tuple(f"{counts[name]:,}" for name in names)
