"""Low-communication training against data-parallel AdamW on the same tokens: loss, bytes, simulated time, attacks.

python -m benchmarks.convergence [--corpus DIR] [--only NAME ...] [--scenario FILE ...] [--jobs N] [--write]
python -m benchmarks.convergence --quick

A scenario is a TOML file in scenarios/. A run that ended is kept in the results folder and not made again, so that a
sweep goes on where it was stopped: delete the folder after a change to the model, the trainer, a codec or the corpus.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.convergence import quick, report, scenario, text
from benchmarks.convergence.sweep import Options, SweepFailed, sweep
from ml import hardware

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / ".state" / "benchmarks" / "convergence"
NUM_PROCESSES = 2


def main() -> int:
    options = read_options()
    if options.device == "cpu":
        # Before torch looks for a GPU, here and in the processes that are started.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.device == "cuda" and hardware.detect().device != "cuda":
        print("there is no GPU here that torch can use", file=sys.stderr)
        return 1
    if options.quick:
        return quick.main(options.corpus, num_processes=options.jobs)
    chosen = [scenario.read(path) for path in options.scenario]
    if options.only or not chosen:
        chosen += scenario.read_all(options.only)
    vocab_sizes = {one.model.vocab_size for one in chosen if one.kind != "clock"}
    texts = {size: text.prepare(options.corpus, vocab_size=size, cache=options.results) for size in vocab_sizes}
    try:
        made = sweep(
            chosen,
            Options(
                texts=texts,
                folder=options.results,
                num_seeds=options.seeds,
                num_processes=options.jobs,
                is_side_by_side=options.side_by_side,
            ),
        )
    except SweepFailed as problem:
        print(problem, file=sys.stderr)
        return 1
    report.main(chosen, made, folder=options.results, write=options.write)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, default=ROOT / "data" / "sample", help="a folder of raw folders")
    parser.add_argument("--quick", action="store_true", help="everything in small: does it run, and hold what it must?")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some of the repository's scenarios")
    parser.add_argument("--scenario", nargs="+", type=Path, default=[], metavar="FILE", help="scenarios of your own")
    parser.add_argument("--seeds", type=int, default=3, help="most seeds of each; a scenario may want fewer")
    parser.add_argument("--jobs", type=int, default=NUM_PROCESSES, metavar="N", help="runs at a time, a thread each")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument(
        "--side-by-side",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train jobs that begin together as one: faster, other rounding; --quick never does",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where runs are kept")
    parser.add_argument("--write", action="store_true", help="replace tables and plots in docs/")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick makes no figures to write")
    return options


if __name__ == "__main__":
    sys.exit(main())
