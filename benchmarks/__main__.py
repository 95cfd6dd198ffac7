"""Measures what docs/experiments.md states, one benchmark after the other, each in a process of its own.

python -m benchmarks [--write] [NAME ...]
python -m benchmarks --training [--corpus DIR] [--quick] [--write] [NAME ...]

A figure that misses its goal is said, and is no failure; a benchmark that does not end by itself is one.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.record import PlaceMissing, write

NAMES = ("demo_learning", "merging", "job_cycles", "cached_generation")
TRAINING_NAMES = ("training_speed", "gradient_checkpointing", "data_pipeline", "learning_per_token")
"""Of the learner's pipeline; each has a quick form."""
CORPUS_NAMES = ("data_pipeline", "learning_per_token")


class BenchmarkFailed(Exception):
    """A benchmark crashed; what it wrote to standard error is on the terminal."""


def main() -> int:
    options = read_options()
    return run_all({name: arguments_of(name, options) for name in options.names}, is_written=options.write)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of the group; all of it without any")
    parser.add_argument("--training", action="store_true", help="the group of the learner's pipeline")
    parser.add_argument("--corpus", type=Path, help="of --training: a folder of raw folders; default: the sample")
    parser.add_argument("--quick", action="store_true", help="of --training: do they run at all?")
    parser.add_argument("--write", action="store_true", help="replace the tables in docs/experiments.md")
    options = parser.parse_args()
    group = TRAINING_NAMES if options.training else NAMES
    if unknown := set(options.names) - set(group):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(group)}")
    if not options.training and (options.corpus or options.quick):
        parser.error("--corpus and --quick belong to --training")
    if options.quick and options.write:
        parser.error("--quick makes no figures to write")
    options.names = options.names or group
    return options


def arguments_of(name: str, options: argparse.Namespace) -> list[str]:
    quick = ["--quick"] if options.quick else []
    return quick + (["--corpus", str(options.corpus)] if options.corpus and name in CORPUS_NAMES else [])


def run_all(arguments: Mapping[str, Sequence[str]], *, is_written: bool) -> int:
    """Run benchmarks by their names, with these arguments each; the exit code, 1 where one failed."""
    exit_code = 0
    for name, own in arguments.items():
        print(f"== {name} ==", flush=True)
        try:
            output = run(name, *own)
            if is_written:
                write(name.replace(".", "_"), output)
        except (BenchmarkFailed, PlaceMissing) as problem:
            print(problem, file=sys.stderr)
            exit_code = 1
    return exit_code


def run(name: str, *arguments: str) -> str:
    """What a benchmark prints, shown while it comes.

    Raises: BenchmarkFailed.
    """
    lines = []
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise BenchmarkFailed(f"{name} ended with exit code {process.returncode}")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
