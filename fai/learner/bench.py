"""Measure how fast a model generates on this machine.

prefill       tokens of a prompt read per second
first token   from the prompt to the first token
decode        tokens per second of one text, and of 8 texts at a time
bandwidth     bytes of weights read for a step x steps per second / the memory's bandwidth, measured in the same run;
              weights that fit a cache may pass 100%
"""

import argparse
from pathlib import Path

from rich.console import Console

from fai.learner.arguments import add_run_arguments, given_of, open_chosen
from fai.learner.results import is_stdout, print_table, require_json, write_json
from ml.speed import BATCH_ROWS, Speed, VariantSpeed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="default: half of the context")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="default: 64, or what the context holds")
    parser.add_argument("--seconds", type=float, metavar="X", help="for each measurement (2)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures as JSON to F; - is the output stream")
    parser.add_argument("--force", action="store_true", help="replace F")


def run(arguments: argparse.Namespace) -> None:
    require_json(arguments.json, force=arguments.force)
    model = open_chosen(arguments)
    with Console(stderr=True).status("Measuring"):
        speed = model.bench(**given_of(arguments, "prompt_tokens", "new_tokens", "seconds"))
    if not is_stdout(arguments.json):
        _print(speed)
    if arguments.json is not None:
        about = {"run": str(model.folder), "checkpoint": str(model.checkpoint)}
        write_json(arguments.json, about | speed.to_dict())


def _print(speed: Speed) -> None:
    title = (
        f"{speed.parameters:,} parameters on {speed.device}, {speed.threads} threads; "
        f"{speed.prompt_tokens} tokens in the prompt, {speed.new_tokens} new"
    )
    cells = [_cells(variant) for variant in speed.variants]
    names = (
        "weights",
        "weights read for a step",
        "prefill",
        "first token",
        "decode, 1 text",
        f"decode, {BATCH_ROWS} texts",
        "of the bandwidth, 1 text",
        f"of the bandwidth, {BATCH_ROWS} texts",
    )
    rows = list(zip(names[1:], *(column[1:] for column in cells), strict=True))
    print_table(title, ("", *(column[0] for column in cells)), rows)
    print(f"Memory bandwidth, measured: {speed.bandwidth_bytes_per_second / 1e9:.1f} GB/s")
    if speed.peak_memory_bytes is not None:
        print(f"Peak memory: {speed.peak_memory_bytes / 1e6:,.0f} MB")


def _cells(variant: VariantSpeed) -> tuple[str, ...]:
    return (
        variant.weights,
        f"{variant.weight_bytes / 1e6:,.1f} MB",
        f"{variant.prefill_tokens_per_second:,.0f} tokens/s",
        f"{variant.first_token_seconds * 1e3:,.1f} ms",
        f"{variant.decode_tokens_per_second:,.1f} tokens/s",
        f"{variant.batch_tokens_per_second:,.1f} tokens/s",
        f"{variant.bandwidth_share:.0%}",
        f"{variant.batch_bandwidth_share:.0%}",
    )
