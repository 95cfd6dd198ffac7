"""manage.py create_experiment SLUG --corpus DIR: what the admin's form does, for scripts."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from ml.config import CODECS, PRESETS
from training import experiments, tasks
from training.models import Experiment


class Command(BaseCommand):
    """Create an experiment from a preset and, unless told otherwise, set its preparation going."""

    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug")
        parser.add_argument("--corpus", required=True, help="folder of Markdown and Dart files on the control plane")
        parser.add_argument("--title", default="")
        parser.add_argument("--preset", choices=PRESETS, default="tiny")
        parser.add_argument("--model", type=json.loads, default={}, help="JSON that overrides fields of the preset")
        parser.add_argument("--inner", type=json.loads, default={}, help="JSON of the inner optimizer")
        parser.add_argument("--outer", type=json.loads, default={}, help="JSON of the outer optimizer")
        parser.add_argument("--codec", choices=CODECS, default="int8")
        parser.add_argument("--rounds", type=int, default=100)
        parser.add_argument("--round-tokens", type=int, default=1_000_000)
        parser.add_argument("--round-seconds", type=int, default=3_600)
        parser.add_argument("--job-seconds", type=int, default=600)
        parser.add_argument("--escrow-seconds", type=int, default=86_400)
        parser.add_argument("--draft", action="store_true", help="create it and do not start it")

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
            round_min_tokens=max(1, options["round_tokens"] // 4),
            round_seconds=options["round_seconds"],
            job_seconds=options["job_seconds"],
            escrow_seconds=options["escrow_seconds"],
        )
        try:
            experiment.full_clean(exclude=["inner", "outer"])
            experiments.validate(experiment)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        experiment.save()
        if not options["draft"]:
            experiments.start(experiment=experiment, now=timezone.now())
            tasks.prepare.delay(experiment.pk)
        self.stdout.write(f"{experiment.slug} is {experiment.state}")
