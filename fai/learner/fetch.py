"""Download listed sources of text, each into a folder of its own below RAW, with its licence in ATTRIBUTION.md.

What is there already is left alone, and a download that was interrupted goes on: run the same command again.
"""

import argparse
import shlex
from pathlib import Path

from rich.console import Console

from ml.fetching import fetch, is_fetched
from ml.sources import GitSource, Source, SourceInvalid, choose, read_sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="a source, as --list names it")
    parser.add_argument("--out", type=Path, metavar="RAW", help="the folder to fetch into")
    parser.add_argument("--list", action="store_true", help="show the sources, and fetch nothing")
    parser.add_argument("--sources", type=Path, metavar="FILE", help="a list of your own, like ml/sources.toml")
    parser.add_argument("--force", action="store_true", help="fetch again what is there")


def run(arguments: argparse.Namespace) -> None:
    sources = read_sources(arguments.sources)
    if arguments.list:
        _print_list(list(sources.values()))
        return
    chosen = choose(sources, arguments.names)
    if not chosen or arguments.out is None:
        raise SourceInvalid(
            "Say what to fetch and where to: `fai fetch NAME --out RAW`; `fai fetch --list` shows names."
        )
    for source in chosen:
        if is_fetched(source, arguments.out) and not arguments.force:
            print(f"{source.name}: in {arguments.out / source.name} already.")
            continue
        with Console(stderr=True).status(f"Fetching {source.name} from {source.origin}"):
            folder = fetch(source, arguments.out, force=arguments.force)
        print(f"{source.name}: fetched into {folder}, under {source.licence}.")
    print(f"Next: fai prepare {shlex.quote(str(arguments.out))} --out DATA")


def _print_list(sources: list[Source]) -> None:
    rows = [("name", "kind", "language", "licence", "what")]
    for source in sources:
        kind = "git" if isinstance(source, GitSource) else "Hugging Face"
        rows.append((source.name, kind, source.language, source.licence, source.what))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
