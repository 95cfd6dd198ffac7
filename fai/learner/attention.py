"""Draw what each token of a text takes in of the tokens before it, one map for each head.

A row is a token that reads, a column one that it takes from; the text stands after <|endoftext|>. Of a large model each
layer is shown as the mean of its heads; --layer and --head choose.
"""

import argparse
import sys
from pathlib import Path

from fai.learner.arguments import add_run_arguments, open_chosen
from ml.attention_maps import Choice, draw
from ml.inspection import token_label


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--out", type=Path, required=True, metavar="F.png", help="the picture to write")
    parser.add_argument("--layer", type=int, metavar="L", help="only this layer, from 0")
    parser.add_argument("--head", type=int, metavar="H", help="only this head, from 0")
    parser.add_argument("--force", action="store_true", help="replace F.png")


def run(arguments: argparse.Namespace) -> None:
    model = open_chosen(arguments)
    notes = draw(
        model.attention(arguments.text),
        [token_label(model.tokenizer, token) for token in model.read_text(arguments.text)],
        out=arguments.out,
        choice=Choice(layer=arguments.layer, head=arguments.head),
        force=arguments.force,
    )
    for note in notes:
        print(note, file=sys.stderr)
    print(arguments.out)
