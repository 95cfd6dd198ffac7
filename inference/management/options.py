"""Options that every engine's command has."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from training.models import Experiment


def add_serving_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=5.0,
        help="what running requests get to finish after SIGTERM (default: 5)",
    )
    parser.add_argument("--metrics-port", type=int, help="serve /health, /ready and /metrics (Prometheus) here")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="on this address (default: 127.0.0.1)")


def check_serving_options(options: Mapping[str, Any], *, counts: Iterable[str]) -> None:
    """Raises: CommandError, a sentence."""
    experiment = options["experiment"]
    if experiment is not None and not Experiment.objects.filter(slug=experiment).exists():
        raise CommandError(f"There is no experiment {experiment!r}: the admin lists their slugs.")
    for name in counts:
        if options[name] is not None and options[name] < 1:
            raise CommandError(f"--{name} must be at least 1.")
    if options["grace_seconds"] < 0:
        raise CommandError("--grace-seconds must not be negative.")


def metrics_address(options: Mapping[str, Any]) -> tuple[str, int] | None:
    port = options["metrics_port"]
    return None if port is None else (options["metrics_host"], port)
