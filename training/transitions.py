"""How a row changes its state: one guarded UPDATE, so that of two racing changes one wins and the other is told."""

from typing import Any

from training.models import Attempt, Experiment, Round


class EdgeRefused(Exception):
    """The state machine has no such edge."""


class TransitionLost(Exception):
    """Another change of the row came first."""


def move(row: Experiment | Round | Attempt, to: str, *, guard: dict[str, Any] | None = None, **fields: Any) -> None:
    """Move `row` along one edge of its state machine and set `fields` with it.

    `guard` adds look-ups to the WHERE clause beside the primary key and the state that `row` was read in.

    Raises: EdgeRefused, TransitionLost.
    """
    if to not in row.EDGES.get(row.state, ()):
        raise EdgeRefused(f"{type(row).__name__} {row.pk} cannot go from {row.state} to {to}")
    rows = type(row)._default_manager.filter(pk=row.pk, state=row.state, **(guard or {}))
    if not rows.update(state=to, **fields):
        raise TransitionLost(f"{type(row).__name__} {row.pk} is no longer {row.state}")
    for name, value in {"state": to, **fields}.items():
        setattr(row, name, value)
