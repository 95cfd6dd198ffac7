"""Tables that read well in a terminal and are Markdown too, so that docs/experiments.md can hold them as they are."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A figure that was measured, beside the one that is to be reached."""

    measured: str
    wanted: str
    reached: bool
    what: str


def print_goals(*goals: Goal) -> None:
    """One row a goal, the figure first."""
    rows = [(goal.measured, goal.wanted, "ok" if goal.reached else "missed", goal.what) for goal in goals]
    print_table(("measured", "goal", "", "what"), rows)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table whose columns are aligned; a blank line follows."""
    widths = [max(_width(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def _width(text: str) -> int:
    """Columns on a terminal: Korean letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
