"""The completion service's figures, one benchmark after the other, each in a process of its own.

python -m benchmarks.serving [--quick] [--write] [NAME ...]
"""

import argparse
import sys

from benchmarks.__main__ import run_all

NAMES = ("engine", "engine_threads", "service", "service_engines", "service_balance")


def main() -> int:
    options = read_options()
    quick = ["--quick"] if options.quick else []
    return run_all({f"serving.{name}": quick for name in options.names}, is_written=options.write)


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
