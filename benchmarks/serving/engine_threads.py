"""How the engine's threads wait for each other, and what compiling its decoding gives: alone and beside a trainer.

python -m benchmarks.serving.engine_threads [--quick] [--corpus DIR] [--repeats 3] [--tokens 128]

The model m4 with random weights, greedily; each setting in a process of its own, in turn. The trainer is a volunteer's.
"""

import argparse
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import engine_model
from benchmarks.serving.engine_rates import ENVIRONMENT, Contender, Setting, training
from benchmarks.tables import print_table

BATCHES = (1, 8)
Rates = dict[tuple["Threads", int], list[float]]
"""Tokens a second by threads and number of texts, one a repeat."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Threads:
    """A setting, and whether it is tried beside a trainer too."""

    name: str
    count: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    is_tried_beside: bool = True


SPIN = Threads(name="spin, torch's default (`serve_engine --dedicated`)")
ALL = (
    SPIN,
    Threads(name="sleep: `OMP_WAIT_POLICY=PASSIVE`", environment=ENVIRONMENT),
    Threads(name="sleep, one thread (`serve_engine` on two cores)", count=1, environment=ENVIRONMENT),
    Threads(name="`GOMP_SPINCOUNT=2000`", environment={"GOMP_SPINCOUNT": "2000"}),
    Threads(name="`GOMP_SPINCOUNT=20000`", environment={"GOMP_SPINCOUNT": "20000"}),
    Threads(name="spin, decoding not compiled", environment={"PYTORCH_JIT": "0"}, is_tried_beside=False),
)


def main() -> None:
    options = read_options()
    home = engine_model.make("m4", corpus_folder=options.corpus, train_seconds=0)
    with ExitStack() as stack:
        contenders = {
            (threads, batch): stack.enter_context(
                Contender(
                    "ours",
                    Setting(home=home, threads=threads.count, batch=batch, new_tokens=options.tokens),
                    threads.environment,
                )
            )
            for threads in ALL
            for batch in BATCHES
        }
        alone = rates(contenders, repeats=options.repeats)
        tried = {key: contender for key, contender in contenders.items() if key[0].is_tried_beside}
        with training():
            beside = rates(tried, repeats=options.repeats)
    head = [
        f"{batch} {'text' if batch == 1 else 'texts'} {where}" for where in ("alone", "beside") for batch in BATCHES
    ]
    rows = [
        (threads.name, *(cell(found, threads, batch) for found in (alone, beside) for batch in BATCHES))
        for threads in ALL
    ]
    print_table(("threads that", *head), rows)
    print(f"Ratio to the first row, median tokens/s; {options.repeats} repeats, {options.tokens} tokens after 16")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat of 16 tokens: does it run at all?")
    parser.add_argument("--corpus", type=Path, default=Path("data/sample"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.tokens = 1, 16
    return options


def rates(contenders: dict[tuple[Threads, int], Contender], *, repeats: int) -> Rates:
    """The repeats' contenders one after the other."""
    rounds = [{key: contender.measure() for key, contender in contenders.items()} for _ in range(repeats)]
    return {key: [each[key] for each in rounds] for key in contenders}


def cell(found: Rates, threads: Threads, batch: int) -> str:
    if (threads, batch) not in found:
        return ""
    own, spinning = found[threads, batch], found[SPIN, batch]
    ratio = statistics.median(a / b for a, b in zip(own, spinning, strict=True))
    return f"{ratio:.2f}x, {statistics.median(own):,.0f}"


if __name__ == "__main__":
    main()
