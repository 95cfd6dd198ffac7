"""What an operator tells an experiment to do, and what they are told in turn."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy
from kombu.exceptions import OperationalError

from training import experiments, labels, tasks
from training.models import Experiment
from training.transitions import EdgeRefused, TransitionLost


class CommandRefused(Exception):
    """The experiment cannot do this now; the message is for the operator."""


class QueueUnreachable(Exception):
    """Done, but Redis is away; the reaper begins the work when it is back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    label: Promise
    done: Promise
    """What is said once it is done."""
    run: Callable[[Experiment, datetime], None]
    to: Experiment.State
    question: Promise | None = None
    """Asked first, where there is no way back."""


def _start(experiment: Experiment, now: datetime) -> None:
    experiments.start(experiment=experiment, now=now)
    transaction.on_commit(partial(tasks.prepare.delay, experiment.pk))


COMMANDS: dict[str, Command] = {
    "start": Command(
        label=gettext_lazy("Start"),
        done=gettext_lazy("Preparation has begun; the first round opens by itself when it is done."),
        run=_start,
        to=Experiment.State.PREPARING,
    ),
    "pause": Command(
        label=gettext_lazy("Pause"),
        done=gettext_lazy("Paused: nothing more is offered, and what is under way is still taken."),
        run=lambda experiment, now: experiments.pause(experiment=experiment),
        to=Experiment.State.PAUSED,
    ),
    "resume": Command(
        label=gettext_lazy("Resume"),
        done=gettext_lazy("Running again."),
        run=lambda experiment, now: experiments.resume(experiment=experiment),
        to=Experiment.State.RUNNING,
    ),
    "finish": Command(
        label=pgettext_lazy("command", "Finish"),
        done=gettext_lazy("Finished: the open round is abandoned, and what was handed in is paid."),
        run=lambda experiment, now: experiments.finish(experiment=experiment, now=now),
        to=Experiment.State.FINISHED,
        question=gettext_lazy("A finished experiment cannot be resumed. The open round is abandoned."),
    ),
}


def available(experiment: Experiment) -> dict[str, Command]:
    """The commands that the experiment can follow in its present state."""
    following = Experiment.EDGES.get(experiment.state, ())
    preparing = experiment.state == Experiment.State.PREPARING
    return {name: command for name, command in COMMANDS.items() if command.to in following and not preparing}


def run(*, name: str, experiment: Experiment, now: datetime) -> Command:
    """Have the experiment do what `name` says.

    Raises: CommandRefused, QueueUnreachable.
    """
    command = COMMANDS[name]
    if name not in available(experiment):
        state = labels.EXPERIMENTS[experiment.state]
        raise CommandRefused(_("Not done: the experiment is %(state)s.") % {"state": state})
    try:
        with transaction.atomic():
            command.run(experiment, now)
    except ValidationError as error:
        raise CommandRefused(" ".join(error.messages)) from error
    except (EdgeRefused, TransitionLost) as error:
        raise CommandRefused(_("Not done: the experiment has changed meanwhile. Look at it again.")) from error
    except OperationalError as error:
        raise QueueUnreachable(_("Redis cannot be reached; the preparation begins when it is back.")) from error
    return command
