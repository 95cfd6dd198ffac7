"""Tables and JSON on the output stream or in a file."""

import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.files import replacing, require_free

PIPE_COLUMNS = 120
"""Where no terminal says how wide it is."""


def print_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Collection[str] | None = None
) -> None:
    """A table whose columns in `text`, by default the first, are text and whose others are numbers."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    table = Table(box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(name, justify="left" if name in (head[:1] if text is None else text) else "right")
    for row in rows:
        # Text, because a str would be read as markup: [ANSWER] would vanish.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(Text(title, style="bold"))
    console.print(table)


def is_stdout(path: Path | None) -> bool:
    """Whether --json asks for the output stream, by `-`."""
    return str(path) == "-"


def require_json(path: Path | None, *, force: bool) -> None:
    """Raises: ml.files.OutputExists where the file of --json stands already."""
    if path is not None and not is_stdout(path):
        require_free(path, force=force)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """To the file, or to the output stream where it is called `-`."""
    text = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    if is_stdout(path):
        sys.stdout.write(text)
        return
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
