"""Learning per token: our GPT as `fai train` trains it, against transformers' GPT2LMHeadModel with AdamW.

python -m benchmarks.learning_per_token [--corpus DIR] [--quick] [--ablations]

Both see the same tokens in the same order and have the same number of parameters. Each one's learning rate is searched
on one grid, in steps of two, until the best has a worse one on either side. A run that ended is kept in STATE and not
run again: delete the folder after a change to the model, the trainer or the corpus.
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.learning_contenders import Entry, Ours, Rival
from benchmarks.learning_runs import Outcome, Setup, read_text, run_once
from benchmarks.tables import Goal, print_goals, print_table
from ml.allocator import keep_freed_memory
from ml.config import PRESETS
from ml.files import replacing
from ml.hardware import limit_threads

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".state" / "benchmarks" / "learning_per_token"
PLOT = STATE / "learning_per_token.png"
LEAST_GAIN = 0.04
NUM_TOKENS = 5_000_000
QUICK_TOKENS = 200_000
BATCH_TOKENS = 2_048
WARMUP_SHARE = 0.05
GRID_STEP = 2.0

# Small enough that one core sees five million tokens in some minutes: 29 for each parameter.
MODEL = PRESETS["tiny"].replace(vocab_size=1_024, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)

RIVAL = Entry(name="gpt2-adamw-cosine", start=Rival, optimizer="adamw", schedule="cosine", learning_rate=8e-3)
OURS = Entry(name="ours-muon-cosine", start=Ours, optimizer="muon", schedule="cosine", learning_rate=8e-3)
ABLATIONS = (
    Entry(name="gpt2-adamw-wsd", start=Rival, optimizer="adamw", schedule="wsd", learning_rate=8e-3),
    Entry(name="ours-adamw-cosine", start=Ours, optimizer="adamw", schedule="cosine", learning_rate=8e-3),
    Entry(name="ours-muon-wsd", start=Ours, optimizer="muon", schedule="wsd", learning_rate=8e-3),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "data" / "sample")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS:,} tokens and one seed: does it run?")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each at its best learning rate")
    parser.add_argument("--ablations", action="store_true", help="also what lies between the two")
    parser.add_argument("--threads", type=int, default=1, help="1 measures the same beside other programs")
    options = parser.parse_args()
    limit_threads(options.threads)
    keep_freed_memory()
    setup = Setup(
        model=MODEL,
        num_tokens=QUICK_TOKENS if options.quick else NUM_TOKENS,
        batch_tokens=BATCH_TOKENS,
        warmup_share=WARMUP_SHARE,
        precision="fp32",
    )
    text = read_text(options.corpus, vocab_size=MODEL.vocab_size, cache=STATE)
    seeds = range(1 if options.quick else options.seeds)
    searches, finals = [], []
    for entry in (RIVAL, *ABLATIONS, OURS) if options.ablations else (RIVAL, OURS):
        train = functools.partial(run_once, entry, setup=setup, text=text, cache=STATE)
        tried = search(functools.partial(train, seed=0), start=entry.learning_rate)
        best = min(tried, key=loss_of).learning_rate
        searches.append(tried)
        finals.append([train(learning_rate=best, seed=seed) for seed in seeds])
    report_goal(finals)
    report_searches(searches)
    draw(finals)
    print(
        f"{setup.num_steps:,} batches of {setup.batch_tokens:,} tokens; {MODEL.n_layer} layers of {MODEL.n_embd}, "
        f"vocabulary {MODEL.vocab_size:,}, context {MODEL.block_size}; plot in {PLOT.relative_to(ROOT)}"
    )


def search(train: Callable[..., Outcome], *, start: float) -> list[Outcome]:
    """Outcomes by rising learning rate: on a grid that grows until its best is neither first nor last."""
    tried = [train(learning_rate=rate) for rate in (start / GRID_STEP, start, start * GRID_STEP)]
    while (best := min(tried, key=loss_of)) in (tried[0], tried[-1]):
        if best is tried[0]:
            tried.insert(0, train(learning_rate=best.learning_rate / GRID_STEP))
        else:
            tried.append(train(learning_rate=best.learning_rate * GRID_STEP))
    return tried


def loss_of(outcome: Outcome) -> float:
    return outcome.loss


def mean_loss(outcomes: Sequence[Outcome]) -> float:
    return statistics.mean(map(loss_of, outcomes))


def report_goal(finals: Sequence[Sequence[Outcome]]) -> None:
    """The goal, and a row for each contender; the rival comes first and ours last."""
    rival, ours = mean_loss(finals[0]), mean_loss(finals[-1])
    print_goals(
        Goal(
            measured=f"{1 - ours / rival:.1%}",
            wanted=f"at least {LEAST_GAIN:.0%}",
            reached=ours <= (1 - LEAST_GAIN) * rival,
            what=f"validation loss below GPT2LMHeadModel's after {finals[0][0].curve[-1][0]:,} tokens",
        )
    )
    print_table(
        ("contender", "parameters", "learning rate", "validation loss", "of each seed", "below GPT-2"),
        [
            (
                runs[0].name,
                f"{runs[0].num_parameters:,}",
                f"{runs[0].learning_rate:g}",
                f"{mean_loss(runs):.4f}",
                " ".join(f"{outcome.loss:.4f}" for outcome in runs),
                f"{1 - mean_loss(runs) / rival:.1%}",
            )
            for runs in finals
        ],
    )


def report_searches(searches: Sequence[Sequence[Outcome]]) -> None:
    """Validation losses by learning rate."""
    rates = sorted({outcome.learning_rate for outcomes in searches for outcome in outcomes})
    rows = []
    for outcomes in searches:
        losses = {outcome.learning_rate: f"{outcome.loss:.4f}" for outcome in outcomes}
        rows.append((outcomes[0].name, *(losses.get(rate, "") for rate in rates)))
    print_table(("loss at learning rate", *(f"{rate:g}" for rate in rates)), rows)


def draw(finals: Sequence[Sequence[Outcome]]) -> None:
    """Validation loss against tokens, a line for each contender's first seed."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for first, *_ in finals:
        tokens, losses = zip(*first.curve, strict=True)
        axes.plot([count / 1e6 for count in tokens], losses, marker="o", label=f"{first.name}, {first.learning_rate:g}")
    axes.set_xlabel("million tokens")
    axes.set_ylabel("validation loss, nats per token")
    axes.legend()
    axes.grid(alpha=0.3)
    with replacing(PLOT) as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
