"""What the lists of several models have in common: colours of states, columns of times."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin

from training.models import Attempt, Experiment, Round
from training.templatetags.figures import minute

if TYPE_CHECKING:
    from django_stubs_ext import StrPromise

# unfold writes a state's name only where it finds a colour, be it none.
COLOURS: dict[str, str] = {
    str(state): "" for states in (Experiment.State, Round.State, Attempt.State) for state in states
}
COLOURS |= {
    Experiment.State.RUNNING: "success",
    Experiment.State.PREPARING: "warning",
    Experiment.State.PAUSED: "warning",
    Round.State.OPEN: "success",
    Round.State.MERGING: "warning",
    Round.State.EVALUATING: "warning",
    Round.State.ABANDONED: "danger",
    Attempt.State.OFFERED: "info",
    Attempt.State.SUBMITTED: "info",
    Attempt.State.VALIDATING: "info",
    Attempt.State.ACCEPTED: "success",
    Attempt.State.MERGED: "success",
    Attempt.State.LATE: "warning",
    Attempt.State.LEASE_EXPIRED: "warning",
    Attempt.State.FAILED: "danger",
    Attempt.State.REJECTED: "danger",
}


def moment(field: str, title: "StrPromise") -> Callable[[Any, Any], str]:
    """A column that shows the row's time `field` to the minute."""

    @admin.display(description=title, ordering=field)
    def column(self: Any, row: Any) -> str:
        return minute(getattr(row, field))

    return column
