"""Finds and runs a learner's command, and says what was wrong with what it was given."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from ml.bad_input import BadInput

COMMANDS = {
    "fetch": "download listed sources of text",
    "prepare": "clean raw files into samples",
    "tokenizer": "train a tokenizer on the samples",
    "dataset": "turn samples into tokens for training",
    "train": "train a model",
    "evaluate": "measure a model on text it has not seen",
    "generate": "continue a prompt",
    "chat": "talk with a model",
    "analyze": "look inside a model while it reads a text",
    "attention": "draw what the model attends to",
    "export": "write a model in another program's format",
    "bench": "measure how fast a model generates",
}
"""Module of this package, and what it does in a line."""
EXIT_BAD_INPUT = 2
OURS = ("fai", "ml")


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run one command with its own arguments; its exit code, 2 where what it was given cannot be used."""
    try:
        return _run(name, argv)
    except BadInput as problem:
        print(f"fai {name}: {problem}\nMore: docs/faq/{problem.page}.md", file=sys.stderr)
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in OURS:
            raise
        print(
            f"fai {name}: the package {package} is missing: run `pip install 'fai[learn]'`.\n"
            "More: docs/faq/commands.md",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return 130


def _run(name: str, argv: Sequence[str]) -> int:
    # A command brings torch or a plotting library with it: only the one that runs is loaded.
    module = importlib.import_module(f"fai.learner.{name}")
    parser = argparse.ArgumentParser(
        prog=f"fai {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(argv)) or 0)
