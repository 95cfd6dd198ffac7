"""A file, or a line of JSONL, to a document: decoded, cleaned, and sketched so that its duplicates can be found."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml import duplicates
from ml.cleaning import clean, kind_of
from ml.decoding import NotText, decode
from ml.jsonl import NoDocument, parse_line
from ml.languages import LANGUAGES, language_of
from ml.markdown import Part

MAX_BYTES = 16 * 2**20
MIN_LINE = 40
"""Characters of a line that two documents do not share by chance."""

_BLOCK = re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|\Z))+")
_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]", re.MULTILINE)


class Unusable(Exception):
    """A file that gives no document; `reason` is one of ml.reasons.LEFT_OUT."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """Where a paragraph or a list's item stands in the text, and a hash of each line of MIN_LINE and more."""

    start: int
    stop: int
    lines: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A cleaned text with what is needed to compare it with others."""

    text: str
    language: str
    characters_in: int
    reasons: Counter[str]
    fingerprint: bytes
    sketch: bytes
    paragraphs: Sequence[Paragraph]


def read_document(path: Path) -> Document:
    """The document in a file whose kind is read.

    Raises: Unusable.
    """
    kind = kind_of(path)
    if kind is None:
        raise Unusable("other-kind")
    return _document(_read(path), kind=kind, path=path.name)


def read_line(path: Path, offset: int) -> Document:
    """The document in the line of JSONL that begins at `offset`, by the rules of plain text.

    Raises: Unusable.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            line = file.readline(MAX_BYTES)
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from None
    try:
        fields = parse_line(line)
    except NoDocument as problem:
        raise Unusable("no-document", str(problem)) from None
    language = fields.get("language")
    return _document(fields["text"].encode(), kind="plain", language=language if language in LANGUAGES else None)


def _document(data: bytes, *, kind: str, path: str = "", language: str | None = None) -> Document:
    try:
        decoded = decode(data)
    except NotText:
        raise Unusable("binary") from None
    cleaned = clean(decoded.text, kind=kind, has_modules=path.lower().endswith(".mdx"))
    text = cleaned.text
    if not text.strip():
        raise Unusable("nothing-left" if decoded.text.strip() else "empty")
    return Document(
        text=text,
        language=language or language_of(text, path=path),
        characters_in=len(decoded.text),
        reasons=decoded.reasons + cleaned.reasons,
        fingerprint=duplicates.fingerprint(text),
        sketch=duplicates.sketch(text),
        paragraphs=list(_paragraphs(cleaned.parts)),
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from None
    if len(data) > MAX_BYTES:
        raise Unusable("too-big", f"more than {MAX_BYTES:,} bytes")
    if not data.strip():
        raise Unusable("empty")
    return data


def _paragraphs(parts: Sequence[Part]) -> Iterator[Paragraph]:
    offset = 0
    for part in parts:
        if not part.is_code:
            for block in _BLOCK.finditer(part.text):
                yield from _with_long_lines(part.text, block.start(), block.end(), offset)
        offset += len(part.text)


def _with_long_lines(text: str, start: int, stop: int, offset: int) -> Iterator[Paragraph]:
    places = sorted({start, *(item.start() for item in _ITEM.finditer(text, start, stop))})
    for begin, end in zip(places, [*places[1:], stop], strict=True):
        lines = (line.strip() for line in text[begin:end].split("\n"))
        hashes = [_hash(line) for line in lines if len(line) >= MIN_LINE]
        if hashes:
            yield Paragraph(start=offset + begin, stop=offset + end, lines=hashes)


def _hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big", signed=True)
