"""The documents to learn from: cleaned samples below DATA/samples, and JSONL files."""

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ml.bad_input import BadInput
from ml.data import last_validation_rank, rank_of
from ml.jsonl import SUFFIX as JSONL
from ml.jsonl import NoDocument, parse_line
from ml.languages import LANGUAGES, language_of
from ml.tokenizer import END_OF_TEXT

FOLDER = "samples"
REPORT_FILE = "prepare-report.json"
VALIDATION_SHARE = 0.05


class SamplesInvalid(BadInput):
    """Documents that are missing or cannot be read."""

    page: ClassVar[str] = "data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Where a document is and what it is; its text stays on the disk until `read`."""

    site: str
    language: str
    rank: bytes
    num_bytes: int
    """Of its UTF-8."""
    file: Path
    offset: int | None = None
    """Where its line begins, in a JSONL file."""

    def read(self) -> str:
        if self.offset is None:
            # Line ends stay as they are: what was hashed is what is encoded.
            return self.file.read_bytes().decode()
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return str(_parse(file.readline())["text"])


Track = Callable[[Sequence[Sample], str], Iterable[Sample]]
"""Passes samples on in their order while it shows how far they are, under a title."""


def untracked(samples: Sequence[Sample], title: str) -> Iterable[Sample]:
    """A Track that shows nothing."""
    return samples


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedLine:
    """A line of a JSONL file that holds no document, counted from 1."""

    file: Path
    line: int
    reason: str


@dataclass(kw_only=True, slots=True)
class Samples:
    """All documents, split into those that train and those that validate."""

    training: list[Sample] = field(default_factory=list)
    """Shuffled by content, so that every stretch has something of each site."""
    validation: list[Sample] = field(default_factory=list)
    """In the order of site, language, content."""
    skipped: list[SkippedLine] = field(default_factory=list)


def find_samples(folder: Path, *, jsonl: Sequence[Path] = ()) -> Samples:
    """The documents of folder/samples and of JSONL files, or folders of such, split by their content.

    VALIDATION_SHARE of the different documents validate.

    Raises: SamplesInvalid.
    """
    if not (folder / FOLDER).is_dir() and not jsonl:
        raise SamplesInvalid(f"There is no {folder / FOLDER}: make it with `fai prepare RAW --out {folder}`.")
    skipped: list[SkippedLine] = []
    found = [
        *_in_folder(folder / FOLDER, skipped),
        *(sample for path in _files(jsonl) for sample in _in_jsonl(path, skipped)),
    ]
    if len({sample.rank for sample in found}) < 2:
        where = folder / FOLDER if not jsonl else jsonl[0]
        raise SamplesInvalid(
            f"{where} holds fewer than two different documents, one to train and one to validate: "
            f"add text, and run `fai prepare RAW --out {folder} --force`."
        )
    last = last_validation_rank((sample.rank for sample in found), validation_share=VALIDATION_SHARE)
    return Samples(
        training=sorted((sample for sample in found if sample.rank > last), key=lambda sample: sample.rank),
        validation=sorted(
            (sample for sample in found if sample.rank <= last),
            key=lambda sample: (sample.site, sample.language, sample.rank),
        ),
        skipped=skipped,
    )


def read_all(samples: Iterable[Sample]) -> Iterator[str]:
    """The texts, one at a time.

    Raises: SamplesInvalid where a document changed or went since it was found.
    """
    for sample in samples:
        try:
            text = sample.read()
        except (OSError, ValueError):
            text = None
        if text is None or rank_of(text) != sample.rank:
            raise SamplesInvalid(f"{sample.file} changed while it was read: run the command again.")
        yield text


def _in_folder(root: Path, skipped: list[SkippedLine]) -> Iterator[Sample]:
    for path in sorted(path for path in root.rglob("*") if path.suffix in {".txt", JSONL}):
        name = path.relative_to(root)
        if path.suffix == JSONL:
            yield from _in_jsonl(path, skipped, site=name.parts[0])
            continue
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SamplesInvalid(f"{path} cannot be read ({error}): make it anew with `fai prepare`.") from error
        if text.strip():
            yield _sample(text, site=name.parts[0], language=language_of(text, path=path.name), file=path)


def _files(jsonl: Sequence[Path]) -> Iterator[Path]:
    for path in jsonl:
        found = sorted(path.glob(f"*{JSONL}")) if path.is_dir() else [path]
        if not found:
            raise SamplesInvalid(f"{path} holds no .jsonl file: name another folder, or a file.")
        yield from found


def _in_jsonl(path: Path, skipped: list[SkippedLine], *, site: str = "") -> Iterator[Sample]:
    """The file's documents, of `site` or of the one that each line names, or else the file's name."""
    num_documents = num_skipped = offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    if line.strip():
                        yield _from_line(line, path=path, offset=offset, site=site)
                        num_documents += 1
                except NoDocument as problem:
                    skipped.append(SkippedLine(file=path, line=number, reason=str(problem)))
                    num_skipped += 1
                offset += len(line)
    except OSError as error:
        raise SamplesInvalid(f"{path} cannot be read ({error.strerror}): name a JSONL file.") from error
    if not num_documents:
        first = f"; {skipped[-num_skipped].reason} in line {skipped[-num_skipped].line}" if num_skipped else ""
        raise SamplesInvalid(f'{path} holds no document{first}: write one {{"text": "..."}} on each line.')


def _from_line(line: bytes, *, path: Path, offset: int, site: str) -> Sample:
    document = _parse(line)
    text = document["text"]
    language = document.get("language") or language_of(text)
    return _sample(
        text,
        site=site or str(document.get("site") or path.stem),
        language=language if language in LANGUAGES else "other",
        file=path,
        offset=offset,
    )


def _parse(line: bytes) -> dict[str, Any]:
    """The document, its text in NFC.

    Raises: NoDocument.
    """
    document = parse_line(line)
    # Written out in a text, the token that ends documents is no end of this one: as in ml.cleaning.
    text = unicodedata.normalize("NFC", document["text"]).replace(END_OF_TEXT, "<| endoftext |>")
    return document | {"text": text}


def _sample(text: str, *, site: str, language: str, file: Path, offset: int | None = None) -> Sample:
    return Sample(
        # One string for each name, not one for each document.
        site=sys.intern(site),
        language=sys.intern(language),
        rank=rank_of(text),
        num_bytes=len(text.encode()),
        file=file,
        offset=offset,
    )
