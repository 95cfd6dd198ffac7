"""Finds and runs a learner's command, and says what was wrong with what it was given."""

import argparse
import errno
import importlib
import io
import os
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
EXIT_NOBODY_READS = 141
"""As a shell counts a program that SIGPIPE ended."""
DISK_ERRORS = frozenset(
    {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EPERM, errno.EROFS}
)
"""What is wrong with the machine, not with us."""
OURS = ("fai", "ml")


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run one command with its own arguments; its exit code, 2 where what it was given cannot be used."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console of another encoding shows what it lacks as an escape, and loses nothing else.
            stream.reconfigure(errors="backslashreplace")
    try:
        exit_code = _run(name, argv)
        sys.stdout.flush()
    except BadInput as problem:
        return _refuse(name, str(problem), page=problem.page)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in OURS:
            raise
        return _refuse(name, f"the package {package} is missing: run `pip install 'fai[learn]'`.", page="commands")
    except BrokenPipeError:
        # What is still to be written would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOBODY_READS
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = error.filename or "A file"
        return _refuse(
            name, f"{place} cannot be read or written ({error.strerror}): allow it, or make room.", page="commands"
        )
    except KeyboardInterrupt:
        return 130
    return exit_code


def _refuse(name: str, problem: str, *, page: str) -> int:
    sentence = f"{problem.removesuffix('.')}."
    print(f"fai {name}: {sentence}\nMore: docs/faq/{page}.md", file=sys.stderr)
    return EXIT_BAD_INPUT


def _run(name: str, argv: Sequence[str]) -> int:
    # A command brings torch or a plotting library with it: only the one that runs is loaded.
    module = importlib.import_module(f"fai.learner.{name}")
    parser = argparse.ArgumentParser(
        prog=f"fai {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(argv)) or 0)
