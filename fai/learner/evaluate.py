"""Measure how well a model predicts the validation documents of a dataset, which it has not seen in training.

perplexity      as if the model chose among so many tokens at each step; depends on the tokenizer
bits per byte   what the text could be compressed to; may be compared between tokenizers
accuracy        share of tokens that the model held for the likeliest

Every token is predicted once, from those before it in its window; windows do not overlap and are as long as the
model's context, the last of each group shorter. The end of each document counts as a token.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from fai.learner.arguments import add_run_arguments, open_chosen
from fai.learner.progress import counting
from fai.learner.results import is_stdout, print_table, require_json, write_json
from ml.scores import Evaluation, Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--data", type=Path, metavar="DATA", help="a dataset (default: the run's own)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the scores as JSON to F; - is the output stream")
    parser.add_argument("--force", action="store_true", help="replace F")


def run(arguments: argparse.Namespace) -> None:
    require_json(arguments.json, force=arguments.force)
    model = open_chosen(arguments)
    with counting("Evaluating", unit="tokens") as on_progress:
        evaluation = model.evaluate(arguments.data, on_progress=on_progress)
    if not is_stdout(arguments.json):
        _print(evaluation)
    if arguments.json is not None:
        about = {"run": str(model.folder), "checkpoint": str(model.checkpoint)}
        write_json(arguments.json, about | evaluation.to_dict())


def _print(evaluation: Evaluation) -> None:
    _print_scores("By language", "language", evaluation.languages | {"all": evaluation.total})
    _print_scores("By site", "site", evaluation.sites | {"all": evaluation.total})


def _print_scores(title: str, name: str, scores: Mapping[str, Score]) -> None:
    head = (name, "documents", "bytes", "tokens", "loss", "perplexity", "bits per byte", "accuracy")
    print_table(title, head, [(each, *_cells(score)) for each, score in scores.items()])


def _cells(score: Score) -> tuple[str, ...]:
    return (
        f"{score.documents:,}",
        f"{score.bytes:,}",
        f"{score.tokens:,}",
        f"{score.loss:.3f}",
        f"{score.perplexity:,.1f}",
        f"{score.bits_per_byte:.3f}",
        f"{score.accuracy:.1%}",
    )
