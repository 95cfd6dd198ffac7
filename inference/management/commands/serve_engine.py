"""manage.py serve_engine: the process that holds the models and decodes."""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.management.options import add_serving_options, check_serving_options, metrics_address
from ml.threads import num_cores


class Command(BaseCommand):
    # The engine has no pages: their checks would only delay it.
    requires_system_checks = ()
    help = "Serve published checkpoints to /v1, each under its experiment's slug, until SIGTERM or Ctrl+C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--experiment", metavar="SLUG", help="serve this experiment alone")
        parser.add_argument("--slots", type=int, default=8, help="texts decoded together, per model (default: 8)")
        parser.add_argument("--threads", type=int, help="CPU threads (default: all cores but one)")
        parser.add_argument(
            "--dedicated",
            action="store_true",
            help="nothing else computes on these cores: idle threads spin, on all, 1.4 to 1.6 times as fast on two",
        )
        parser.add_argument(
            "--extra-models",
            type=int,
            default=2,
            help="older checkpoints, asked for as SLUG@ROUND, that may be in memory besides (default: 2)",
        )
        add_serving_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        check_serving_options(options, counts=("slots", "threads"))
        if options["extra_models"] < 0:
            raise CommandError("--extra-models must not be negative.")
        if options["dedicated"]:
            os.environ.pop("OMP_WAIT_POLICY", None)
        else:
            # Threads that spin while they wait stand still beside a trainer: 631 -> 4 tokens/s.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch  # noqa: PLC0415 - the policy counts only before torch is loaded

        from inference.engine.serving import ServingOptions, serve  # noqa: PLC0415 - it loads torch

        if options["threads"] is not None:
            torch.set_num_threads(options["threads"])
        elif not options["dedicated"]:
            torch.set_num_threads(max(1, min(torch.get_num_threads(), num_cores() - 1)))
        serve(
            ServingOptions(
                experiment=options["experiment"],
                num_slots=options["slots"],
                max_extra_models=options["extra_models"],
                grace_seconds=options["grace_seconds"],
                metrics_address=metrics_address(options),
            )
        )
