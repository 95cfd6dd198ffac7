"""The completion service's figures, one benchmark after the other, each in a process of its own.

python -m benchmarks.serving [--quick] [--write] [NAME ...]
"""

import argparse
import sys

from benchmarks.__main__ import BenchmarkFailed, run
from benchmarks.record import PlaceMissing, write

NAMES = ("engine", "service", "service_balance")


def main() -> int:
    options = read_options()
    failed = []
    for name in options.names:
        print(f"== {name} ==", flush=True)
        try:
            output = run(f"serving.{name}", *(["--quick"] if options.quick else []))
            if options.write:
                write(f"serving_{name}", output)
        except (BenchmarkFailed, PlaceMissing) as problem:
            print(problem, file=sys.stderr)
            failed.append(name)
    return 1 if failed else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}; all without any")
    parser.add_argument("--quick", action="store_true", help="do they run at all?")
    parser.add_argument("--write", action="store_true", help="replace the tables in docs/experiments.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}")
    if options.quick and options.write:
        parser.error("--quick makes no figures to write")
    options.names = options.names or NAMES
    return options


if __name__ == "__main__":
    sys.exit(main())
