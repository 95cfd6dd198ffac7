"""manage.py serve_engine: the process that holds the models and decodes."""

import logging
import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training.models import Experiment


class Command(BaseCommand):
    # The engine has no pages: their checks would only delay it.
    requires_system_checks = ()
    help = "Serve published checkpoints to /v1, each under its experiment's slug, until SIGTERM or Ctrl+C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--experiment", metavar="SLUG", help="serve this experiment alone")
        parser.add_argument("--slots", type=int, default=8, help="texts decoded together, per model (default: 8)")
        parser.add_argument("--threads", type=int, help="CPU threads; 1 where a trainer runs on the same machine")

    def handle(self, *args: Any, **options: Any) -> None:
        experiment = options["experiment"]
        if experiment is not None and not Experiment.objects.filter(slug=experiment).exists():
            raise CommandError(f"There is no experiment {experiment!r}: the admin lists their slugs.")
        for name in ("slots", "threads"):
            if options[name] is not None and options[name] < 1:
                raise CommandError(f"--{name} must be at least 1.")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        # Idle threads that spin take the cores from a trainer on the same machine: 718 -> 4 tokens/s.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch  # noqa: PLC0415 - the policy counts only before torch is loaded

        from inference.serving import serve  # noqa: PLC0415 - it loads torch

        if options["threads"] is not None:
            torch.set_num_threads(options["threads"])
        serve(experiment=experiment, num_slots=options["slots"])
