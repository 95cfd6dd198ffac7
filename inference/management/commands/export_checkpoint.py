"""manage.py export_checkpoint: a published model in another program's format, as `fai export` writes a learner's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.management.options import find_checkpoint, find_tokenizer
from ml import tokenizer
from ml.bad_input import BadInput
from ml.checkpoint import read_config
from ml.export.formats import FORMATS, export
from ml.export.source import Source
from ml.export.weights import DTYPES
from training import blobs
from training.blobs import BlobCorrupt, BlobUnavailable
from training.models import Checkpoint


class Command(BaseCommand):
    help = "Write a published checkpoint in another program's format, with a README that says how it is loaded."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", metavar="SLUG[@ROUND]", help="the newest published round unless one is given")
        parser.add_argument("--format", required=True, choices=FORMATS, help="which program it is for")
        parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the folder to write")
        parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="type of the weights (default: fp32)")
        parser.add_argument("--force", action="store_true", help="replace an export that stands in FOLDER")

    def handle(self, *args: Any, **options: Any) -> None:
        checkpoint = find_checkpoint(options["model"])
        try:
            with _opened(checkpoint) as source:
                exported = export(
                    source,
                    format_name=options["format"],
                    out=options["out"],
                    dtype=options["dtype"],
                    force=options["force"],
                )
        except BadInput as error:
            raise CommandError(str(error)) from error
        except (BlobCorrupt, BlobUnavailable, FileNotFoundError) as error:
            raise CommandError(f"{checkpoint} cannot be read: {error}") from error
        except ModuleNotFoundError as missing:
            raise CommandError(f"The package {missing.name} is missing: run `pip install 'fai[learn]'`.") from missing
        self.stdout.write(f"{exported.folder}: {checkpoint} as {options['format']}, {options['dtype']}")
        self.stdout.write(exported.listing, ending="")


@contextmanager
def _opened(checkpoint: Checkpoint) -> Iterator[Source]:
    """Raises: CommandError, BlobCorrupt, BlobUnavailable; FileNotFoundError where storage has lost a file."""
    stored_tokenizer = find_tokenizer(checkpoint)
    with blobs.verified_path(checkpoint.blob) as weights, blobs.verified_path(stored_tokenizer) as vocabulary:
        yield Source(
            name=str(checkpoint),
            checkpoint=weights,
            config=read_config(weights),
            tokenizer=tokenizer.load(vocabulary),
            origin={"experiment": checkpoint.experiment.slug, "round": checkpoint.number},
            figures={"Rounds": f"{checkpoint.number:,}"},
            validation_loss=checkpoint.validation_loss,
        )
