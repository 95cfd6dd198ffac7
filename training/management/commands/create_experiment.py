"""manage.py create_experiment SLUG --corpus DIR: what the admin's form does, for scripts."""

import json
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, transaction
from django.utils import timezone

from ml.config import CODECS, PRESETS
from training import doorbell, experiments, tasks
from training.models import Experiment

POLL_SECONDS = 0.5


def json_object(text: str) -> dict[str, Any]:
    """What `text` says in JSON.

    Raises: ArgumentTypeError where that is no object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{text!r} is no JSON object, such as {{}}")
    return value


class Command(BaseCommand):
    """Create an experiment from a preset and, unless told otherwise, set its preparation going."""

    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug")
        parser.add_argument("--corpus", required=True, help="folder of Markdown and Dart files on the control plane")
        parser.add_argument("--title", default="")
        parser.add_argument("--preset", choices=PRESETS, default="tiny")
        parser.add_argument("--model", type=json_object, default={}, help="JSON that overrides fields of the preset")
        parser.add_argument("--inner", type=json_object, default={}, help="JSON of the inner optimizer")
        parser.add_argument("--outer", type=json_object, default={}, help="JSON of the outer optimizer")
        parser.add_argument("--codec", choices=CODECS, default="int8")
        parser.add_argument("--rounds", type=int, default=100)
        parser.add_argument("--round-tokens", type=int, default=1_000_000)
        parser.add_argument("--round-min-tokens", type=int, help="a quarter of --round-tokens unless given")
        parser.add_argument("--round-seconds", type=int, default=3_600)
        parser.add_argument(
            "--grace-seconds",
            type=int,
            help="how long a round waits on once it has its least tokens; else its deadline",
        )
        parser.add_argument("--job-seconds", type=int, default=600)
        parser.add_argument("--max-staleness", type=int, default=1, help="rounds by which a delta may be late")
        parser.add_argument(
            "--staleness-percent", type=int, default=50, help="weight left for each round of being late"
        )
        parser.add_argument("--escrow-seconds", type=int, default=86_400)
        parser.add_argument("--draft", action="store_true", help="create it and do not start it")
        parser.add_argument("--wait", action="store_true", help="wait until it runs; fail where its preparation does")

    def handle(self, *args: Any, **options: Any) -> None:
        experiment = Experiment(
            slug=options["slug"],
            title=options["title"] or options["slug"],
            created_at=timezone.now(),
            corpus_dir=options["corpus"],
            model={**PRESETS[options["preset"]].to_dict(), **options["model"]},
            inner=options["inner"],
            outer=options["outer"],
            codec=options["codec"],
            num_rounds=options["rounds"],
            round_tokens=options["round_tokens"],
            round_min_tokens=_least_tokens(options),
            round_seconds=options["round_seconds"],
            grace_seconds=options["grace_seconds"],
            job_seconds=options["job_seconds"],
            max_staleness=options["max_staleness"],
            staleness_percent=options["staleness_percent"],
            escrow_seconds=options["escrow_seconds"],
        )
        try:
            experiment.full_clean(exclude=["inner", "outer"])
            experiments.validate(experiment)
            with transaction.atomic():
                experiment.save()
                if not options["draft"]:
                    experiments.start(experiment=experiment, now=timezone.now())
        except ValidationError as error:
            raise CommandError("; ".join(_sentences(error))) from error
        except OperationalError as error:
            raise CommandError(
                f"The database cannot answer ({error}): start it or free some space, then try again."
            ) from error
        if not options["draft"]:
            doorbell.ring_worker(tasks.prepare.name, experiment.pk)
            if options["wait"]:
                _wait(experiment)
        self.stdout.write(f"{experiment.slug} is {experiment.state}")


def _least_tokens(options: dict[str, Any]) -> int:
    given: int | None = options["round_min_tokens"]
    return max(1, options["round_tokens"] // 4) if given is None else given


def _sentences(error: ValidationError) -> list[str]:
    """The messages, each with the field that it is about."""
    named = [(name, message) for name, messages in error.message_dict.items() for message in messages]
    return [message if name in message else f"{name}: {message}" for name, message in named]


def _wait(experiment: Experiment) -> None:
    """Raises: CommandError."""
    while experiment.state == Experiment.State.PREPARING:
        time.sleep(POLL_SECONDS)
        experiment.refresh_from_db()
    if experiment.problem:
        raise CommandError(experiment.problem)
