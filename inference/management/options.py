"""Options that several commands have, and what they name."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from inference import catalogue
from training.models import Blob, Checkpoint, Experiment


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
    if options["experiment"] is not None:
        _check_experiment(options["experiment"])
    for name in counts:
        if options[name] is not None and options[name] < 1:
            raise CommandError(f"--{name} must be at least 1.")
    if options["grace_seconds"] < 0:
        raise CommandError("--grace-seconds must not be negative.")


def metrics_address(options: Mapping[str, Any]) -> tuple[str, int] | None:
    port = options["metrics_port"]
    return None if port is None else (options["metrics_host"], port)


def find_checkpoint(model: str) -> Checkpoint:
    """The newest published checkpoint under a slug, that of a round under slug@round.

    Raises: CommandError, a sentence.
    """
    slug, _, number = model.partition("@")
    _check_experiment(slug)
    try:
        return catalogue.find(model)
    except (catalogue.ModelNotFound, catalogue.ModelNotReady) as error:
        if catalogue.is_pinned(model):
            raise CommandError(f"Round {number} of {slug!r} has no published checkpoint.") from error
        raise CommandError(f"{slug!r} has published no checkpoint yet.") from error


def find_tokenizer(checkpoint: Checkpoint) -> Blob:
    """Raises: CommandError where its experiment has none."""
    experiment = checkpoint.experiment
    if experiment.tokenizer is None:
        raise CommandError(f"The experiment {experiment.slug!r} has no tokenizer.")
    return experiment.tokenizer


def _check_experiment(slug: str) -> None:
    if not Experiment.objects.filter(slug=slug).exists():
        raise CommandError(f"There is no experiment {slug!r}: the admin lists their slugs.")
