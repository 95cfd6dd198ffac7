"""Clean raw files into samples: DATA/samples/, DATA/samples.txt and DATA/prepare-report.json.

Reads .md .mdx .markdown .dart .py .txt .log .rst .html and .htm files in any encoding, and .jsonl files with
{"text": ...} on each line, which counts as a file. What each rule does is in the report, which names every file that
was left out or changed.
"""

import argparse
import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from fai.learner.results import print_table
from ml.preparation import prepare
from ml.samples import REPORT_FILE


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
    totals = summary["totals"]
    sites = [(name, *_counts(counts), _languages(counts)) for name, counts in summary["sites"].items()]
    print_table(
        "By site",
        ("site", "files", "left out", "changed", "characters", "documents"),
        [*sites, ("all", *_counts(totals), f"{totals['kept']:,}")],
        text=("site", "documents"),
    )
    reasons = [
        (name, f"{counts['files']:,}", f"{counts['times']:,}", counts["what"])
        for name, counts in summary["reasons"].items()
    ]
    if reasons:
        print_table(
            "What was left out or changed", ("reason", "files", "times", "what"), reasons, text=("reason", "what")
        )
    print(f"Wrote {totals['kept']:,} documents into {out}; {out / REPORT_FILE} names what was left out or changed.")
    print(f"Next: fai tokenizer {shlex.quote(str(out))}")


def _counts(counts: dict[str, int]) -> tuple[str, ...]:
    names = ("files", "left_out", "changed", "characters_out")
    return tuple(f"{counts[name]:,}" for name in names)


def _languages(counts: dict[str, Any]) -> str:
    return ", ".join(f"{language} {count:,}" for language, count in counts["languages"].items())
