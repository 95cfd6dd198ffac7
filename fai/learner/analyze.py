"""Look inside a model while it reads a text: what it expects at each position, and what passes through its layers.

The text stands after <|endoftext|>, as a document does. In a token, ␣ is a space and ⏎ a line's end; a token that is
only a part of a letter is shown by its bytes. Surprise is -log2 of the probability that the model gave a token.
"""

import argparse

from fai.learner.arguments import add_run_arguments, open_chosen
from fai.learner.results import print_table
from ml.inspection import Activation, Analysis, Position, token_label
from ml.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="candidates at each position (5)")
    parser.add_argument("--gradients", action="store_true", help="also the gradients of the loss on TEXT")


def run(arguments: argparse.Namespace) -> None:
    model = open_chosen(arguments)
    analysis = model.analyze(arguments.text, top=arguments.top, gradients=arguments.gradients)
    _print_positions(model, analysis)
    head = ("part", "shape", "mean", "std", "length")
    rows = [_activation_cells(each) for each in analysis.activations]
    print_table("What each part puts out", head, rows, text=("part", "shape"))
    total = sum(size.parameters for size in analysis.sizes)
    sizes = [*((size.part, size.parameters) for size in analysis.sizes), ("all", total)]
    shares = [(part, f"{count:,}", f"{count / total:.1%}") for part, count in sizes]
    print_table("Parameters", ("part", "parameters", "share"), shares)
    if analysis.gradients:
        _print_gradients(analysis)


def _print_positions(model: Run, analysis: Analysis) -> None:
    rows = [
        (str(place), token_label(model.tokenizer, position.token), *_position_cells(model, position))
        for place, position in enumerate(analysis.positions)
    ]
    title = f"Tokens, and what comes next (loss {analysis.loss:.3f} nats per token)"
    print_table(title, ("", "token", "probability", "surprise", "expected next"), rows, text=("token", "expected next"))


def _position_cells(model: Run, position: Position) -> tuple[str, str, str]:
    expected = "  ".join(
        f"{token_label(model.tokenizer, candidate.token)}({candidate.probability:.1%})"
        for candidate in position.candidates
    )
    if position.probability is None or position.surprise_bits is None:
        return "", "", expected
    return f"{position.probability:.2%}", f"{position.surprise_bits:.1f} bits", expected


def _activation_cells(activation: Activation) -> tuple[str, ...]:
    shape = " x ".join(str(size) for size in activation.shape)
    return activation.part, shape, f"{activation.mean:+.4f}", f"{activation.std:.4f}", f"{activation.norm:.3f}"


def _print_gradients(analysis: Analysis) -> None:
    head = ("tensor", "shape", "norm", "largest", "zeros")
    rows = [
        (
            gradient.tensor,
            " x ".join(str(size) for size in gradient.shape),
            f"{gradient.norm:.3e}",
            f"{gradient.largest:.3e}",
            f"{gradient.share_of_zeros:.1%}",
        )
        for gradient in analysis.gradients
    ]
    print_table("Gradients of the loss on TEXT", head, rows, text=("tensor", "shape"))
