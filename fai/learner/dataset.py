"""Turn samples into tokens for training: DATA/train.bin, DATA/val.bin and DATA/dataset.json.

Whole documents are held out for validation, one in twenty, chosen by their content.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from fai.learner.reading import add_jsonl, print_skipped, track_samples
from fai.learner.results import print_table
from ml import dataset
from ml.tokenizer import FILE_NAME as TOKENIZER_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder with samples and tokenizer.json")
    add_jsonl(parser)
    parser.add_argument("--force", action="store_true", help="replace the dataset that is there")


def run(arguments: argparse.Namespace) -> None:
    made = dataset.make_dataset(arguments.data, jsonl=arguments.jsonl, force=arguments.force, track=track_samples)
    print_skipped(made.skipped)
    if made.is_tokenizer_older:
        print(
            f"{arguments.data / TOKENIZER_FILE} is older than the samples: to fit it to them, run "
            f"`fai tokenizer {arguments.data} --force` and this again with --force.",
            file=sys.stderr,
        )
    print(f"Wrote {arguments.data / dataset.RECORD_FILE}: tokens of {made.record['dtype']}.")
    print_table(
        "Tokens", ["file", "documents", "tokens", "bytes/token"], [_row(made.record[part]) for part in ("train", "val")]
    )
    print(f"Next: fai train {shlex.quote(str(arguments.data))} --preset m4 --out RUN")


def _row(part: dict[str, Any]) -> list[str]:
    return [part["file"], f"{part['documents']:,}", f"{part['tokens']:,}", f"{part['bytes'] / part['tokens']:.2f}"]
