"""Puts samples into a folder, under names that every file system takes, whatever the raw file was called."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path, PurePosixPath

from ml.jsonl import SUFFIX as JSONL

SUFFIX = ".txt"
MAX_NAME_BYTES = 200
# What Windows refuses, and what a terminal would obey.
_REFUSED = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\u2028\u2029]|[. ](?=\Z)')


class SampleFolder:
    """Takes the documents of each raw file, one file after another."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._source: Path | None = None
        self._lines = root

    def add(self, text: str, *, name: str) -> bool:
        """Put a document of its own into NAME.txt; whether the name was taken as it is."""
        path = _place(self._root, name, suffix=SUFFIX)
        path.write_text(text, encoding="utf-8", newline="\n")
        return path == self._root / f"{name}{SUFFIX}"

    def add_line(self, text: str, *, name: str, language: str, source: Path) -> bool:
        """Put a document of the JSONL file `source` into NAME; whether the name was taken as it is."""
        stem = str(PurePosixPath(name).with_suffix(""))
        if source != self._source:
            self._source, self._lines = source, _place(self._root, stem, suffix=JSONL)
        with self._lines.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"text": text, "language": language}, ensure_ascii=False) + "\n")
        return self._lines == self._root / f"{stem}{JSONL}"


def _place(root: Path, path_name: str, *, suffix: str) -> Path:
    """The path below root for the sample of `path_name`, a path parted by slashes; its folder exists afterwards.

    A part that cannot be a name is escaped or cut, and a name that is taken (by a file of another raw folder, or where
    the file system sees no difference between a and A) is numbered.
    """
    *folders, last = (_safe(part) for part in path_name.split("/"))
    folder = root
    for name in folders:
        folder = folder / name
        while folder.is_file():
            folder = folder.with_name(f"{folder.name}~")
        folder.mkdir(exist_ok=True)
    path = folder / f"{last}{suffix}"
    number = 2
    while path.exists():
        path = folder / f"{last}~{number}{suffix}"
        number += 1
    return path


def _safe(part: str) -> str:
    name = _REFUSED.sub(lambda match: f"%{ord(match[0]):02X}", unicodedata.normalize("NFC", part))
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    # The name's end is its kind, by which the language of a document is told.
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    end = encoded[-16:].decode(errors="ignore")
    return f"{encoded[: MAX_NAME_BYTES - 40].decode(errors='ignore')}~{digest}~{end}"
