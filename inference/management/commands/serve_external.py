"""manage.py serve_external: another engine's server behind the same queue, keys and bills."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from inference.completions import prompts
from inference.engine.presence import make_engine_id
from inference.external.bridge import BridgeOptions
from inference.external.serving import serve_external
from inference.management.options import (
    add_serving_options,
    check_serving_options,
    find_checkpoint,
    find_tokenizer,
    metrics_address,
)


class Command(BaseCommand):
    requires_system_checks = ()
    help = "Have vllm, llama-server or another OpenAI-compatible server answer for one model, until SIGTERM or Ctrl+C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--upstream", metavar="URL", required=True, help="such as http://127.0.0.1:8080/v1")
        parser.add_argument("--experiment", metavar="SLUG", required=True, help="whose model it has loaded")
        parser.add_argument(
            "--round", metavar="N", type=int, required=True, help="whose checkpoint it has loaded: the bill names it"
        )
        parser.add_argument("--slots", type=int, default=8, help="texts that it is asked for at a time (default: 8)")
        add_serving_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        check_serving_options(options, counts=("slots",))
        checkpoint = find_checkpoint(f"{options['experiment']}@{options['round']}")
        serving = BridgeOptions(
            engine_id=make_engine_id(),
            checkpoint=checkpoint,
            tokenizer=prompts.load_tokenizer(find_tokenizer(checkpoint).sha256),
            num_slots=options["slots"],
            grace_seconds=options["grace_seconds"],
        )
        serve_external(options["upstream"], serving, metrics_address=metrics_address(options))
