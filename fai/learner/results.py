"""Tables, a model's text and JSON on the output stream, or in a file."""

import json
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.files import require_free, writing

PIPE_COLUMNS = 120
"""Where no terminal says how wide it is."""
# Without its first character, an escape sequence is plain letters.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def print_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Collection[str] | None = None
) -> None:
    """A table whose columns in `text`, by default the first, are text and whose others are numbers."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(head):
        is_text = name in (head[:1] if text is None else text)
        # Where the terminal is narrow, text is folded and a number stays whole.
        widths = () if is_text else (*map(len, name.split()), *(len(row[place]) for row in rows))
        table.add_column(name, justify="left" if is_text else "right", min_width=max(widths, default=None))
    for row in rows:
        # Text, because a str would be read as markup: [ANSWER] would vanish.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(Text(title, style="bold"))
    console.print(table)


def printable(text: str) -> str:
    """What a terminal shows of a model's text, and does not obey; a file or a pipe gets all of it."""
    return _CONTROLS.sub("", text) if sys.stdout.isatty() else text


def is_stdout(path: Path | None) -> bool:
    """Whether --json asks for the output stream, by `-`."""
    return str(path) == "-"


def require_json(path: Path | None, *, force: bool) -> None:
    """Raises: ml.files.OutputExists where the file of --json stands already."""
    if path is not None and not is_stdout(path):
        require_free(path, force=force)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """To the file, or to the output stream where it is called `-`.

    Raises: ml.files.FileUnwritable.
    """
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    if is_stdout(path):
        sys.stdout.write(text)
        return
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
