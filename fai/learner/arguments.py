"""Arguments that several commands share."""

import argparse
from pathlib import Path
from typing import Any

from ml.hardware import detect
from ml.run import Run, open_run


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where it computes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder that `fai train` made")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which of the run's models")
    parser.add_argument(
        "--device", choices=("auto", "cpu"), default="auto", help="auto: the GPU where there is one (default)"
    )


def open_chosen(arguments: argparse.Namespace) -> Run:
    """The run that add_run_arguments chose.

    Raises: ml.run.RunInvalid and what else open_run raises.
    """
    device = "cpu" if arguments.device == "cpu" else detect().device
    return open_run(arguments.run, checkpoint=arguments.checkpoint, device=device)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How the next token is drawn; what is not given is absent, for sampling_of to leave out."""
    heat = parser.add_mutually_exclusive_group()
    heat.add_argument("--greedy", action="store_true", help="always the likeliest token")
    heat.add_argument("--temperature", type=float, metavar="X", help="below 1 more likely, above 1 more daring (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest that hold this share (0.95)")
    parser.add_argument("--min-p", type=float, metavar="P", help="leave out what is less than P times the likeliest")
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1: less of what was said already")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text (0)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="the most tokens of a text")


def sampling_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, over the defaults of a command; as ml.sampling.SamplingParams takes it."""
    given = given_of(arguments, "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "max_tokens")
    if arguments.greedy:
        given["temperature"] = 0.0
    return {"temperature": 0.8, "top_p": 0.95} | given


def given_of(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the arguments that were given."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
