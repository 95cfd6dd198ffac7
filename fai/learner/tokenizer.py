"""Train the tokenizer of a dataset on the samples that `fai prepare` made: DATA/tokenizer.json.

Byte-level BPE: every text has tokens, and none is unknown. It learns from the training documents alone; the table says
how well it fits the held-out ones.
"""

import argparse
import shlex
from pathlib import Path

from fai.learner.reading import add_jsonl, print_skipped, track_samples
from fai.learner.results import print_table
from ml import vocabulary
from ml.config import PRESETS

DEFAULT_VOCAB_SIZE = PRESETS["m4"].vocab_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder that `fai prepare` made")
    parser.add_argument("--vocab-size", type=int, default=DEFAULT_VOCAB_SIZE, metavar="N", help="default: %(default)s")
    add_jsonl(parser)
    parser.add_argument("--force", action="store_true", help="replace the tokenizer that is there")


def run(arguments: argparse.Namespace) -> None:
    made = vocabulary.make_tokenizer(
        arguments.data,
        vocab_size=arguments.vocab_size,
        jsonl=arguments.jsonl,
        force=arguments.force,
        track=track_samples,
    )
    print_skipped(made.skipped)
    print(f"Wrote {made.path}: {arguments.vocab_size:,} tokens.")
    print_table(
        "On documents it was not trained on",
        ["language", "documents", "bytes/token", "characters/token", "Hangul in single syllables"],
        [_row(measure) for measure in made.measures],
    )
    print(f"Next: fai dataset {shlex.quote(str(arguments.data))}")


def _row(measure: vocabulary.Measure) -> list[str]:
    return [
        measure.language,
        f"{measure.documents:,}",
        f"{measure.bytes_per_token:.2f}",
        f"{measure.characters_per_token:.2f}",
        f"{measure.syllable_share:.1%}" if measure.language == "ko" else "-",
    ]
