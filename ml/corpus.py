"""A corpus: the files below a folder that can be read as text, and the documents in them.

A file is a document; a file of JSONL has one on each line.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ml.bad_input import CorpusInvalid
from ml.cleaning import KINDS, kind_of
from ml.documents import MAX_BYTES, Document, Unusable, read_document, read_line
from ml.duplicates import Seen
from ml.files import PARTIAL
from ml.jsonl import SUFFIX as JSONL

TOOL_FOLDERS = frozenset({".git", ".hg", ".svn", ".dart_tool", ".venv", "node_modules", "__pycache__"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file, a line of JSONL, or what stands in its place and is not read."""

    path: Path
    name: str
    """Below the folder, parted by slashes; bytes that are no UTF-8 are written \\xNN."""
    problem: Unusable | None = None
    num_bytes: int = 0
    offset: int | None = None
    """Where its line begins, in a file of JSONL, whose name then ends with the line's number."""

    def read(self) -> Document:
        """Raises: Unusable."""
        if self.problem:
            raise self.problem
        return read_document(self.path) if self.offset is None else read_line(self.path, self.offset)


def read_documents(folder: Path) -> list[str]:
    """The folder's documents in the order of their paths: cleaned, each once, as `fai prepare` makes them.

    Raises: CorpusInvalid where the folder is missing, holds no text, or anything in it cannot be read.
    """
    require_folder(folder)
    texts = []
    with tempfile.TemporaryDirectory(prefix="fai-corpus-") as scratch, Seen(Path(scratch, "seen.sqlite")) as seen:
        for found in find_files(folder):
            try:
                texts.append(take_new(found.read(), name=found.name, seen=seen))
            except Unusable as problem:
                if problem.reason == "unreadable":
                    raise CorpusInvalid(
                        f"{found.path} cannot be read ({problem.detail}): change its permissions, or move it out of the"
                        " corpus."
                    ) from problem
    if not texts:
        raise CorpusInvalid(f"{folder} holds no text: put {suffixes()} files with something in them there.")
    return texts


def require_folder(folder: Path) -> None:
    """Raises: CorpusInvalid where there is no such folder."""
    if not folder.is_dir():
        raise CorpusInvalid(
            f"There is no folder {folder}: name one that holds {suffixes()} files, or make it with"
            f" `fai fetch NAME --out {folder}`."
        )


def take_new(document: Document, *, name: str, seen: Seen) -> str:
    """The document's text without the paragraphs that earlier documents have; from here on it is an earlier one.

    A paragraph goes when each of its long lines is in an earlier document: one line would be cut out of a sentence.

    Raises: Unusable where it is a duplicate, or nothing is left.
    """
    if same := seen.find_same(document.fingerprint):
        raise Unusable("duplicate", same)
    if near := seen.find_near(document.sketch):
        raise Unusable("near-duplicate", near)
    seen.add(name=name, fingerprint=document.fingerprint, sketch=document.sketch)
    lines = [line for paragraph in document.paragraphs for line in paragraph.lines]
    known = seen.find_lines(lines)
    seen.add_lines(lines)
    return _without_repeats(document, known)


def _without_repeats(document: Document, known: set[int]) -> str:
    repeated = [paragraph for paragraph in document.paragraphs if known.issuperset(paragraph.lines)]
    if not repeated:
        return document.text
    pieces = []
    place = 0
    for paragraph in repeated:
        pieces.append(document.text[place : paragraph.start])
        # Of the blank lines around it one stays.
        stood_alone = document.text[max(0, paragraph.start - 2) : paragraph.start] in ("", "\n\n")
        place = paragraph.stop + (stood_alone and document.text.startswith("\n", paragraph.stop))
    text = "".join([*pieces, document.text[place:]])
    document.reasons["repeated-text"] += len(repeated)
    if not text.strip():
        raise Unusable("nothing-left")
    return text


def find_files(folder: Path) -> Iterator[Found]:
    """Everything below the folder that is no folder, in the order of names, folder by folder.

    Links are not followed: what they lead to inside the folder is read at its own place, and the rest is not ours. So
    no loop of links is entered.
    """
    root = folder.resolve()
    waiting = [(root, "")]
    while waiting:
        path, name = waiting.pop()
        try:
            status = path.lstat()
        except OSError as error:
            yield Found(path=path, name=name, problem=Unusable("unreadable", error.strerror or str(error)))
            continue
        problem = _problem(path, status.st_mode, root)
        if problem or not stat.S_ISDIR(status.st_mode):
            found = Found(path=path, name=name, problem=problem, num_bytes=status.st_size)
            yield from _find_lines(found) if problem is None and path.suffix.lower() == JSONL else [found]
            continue
        try:
            inside = sorted((entry.name for entry in path.iterdir()), reverse=True)
        except OSError as error:
            yield Found(path=path, name=name, problem=Unusable("unreadable", error.strerror or str(error)))
            continue
        waiting += [(path / entry, f"{name}/{_readable(entry)}".lstrip("/")) for entry in inside]


def _find_lines(file: Found) -> Iterator[Found]:
    """Each line that is not empty, by its number from 1; no more than MAX_BYTES of it are held in memory."""
    if not file.num_bytes:
        yield replace(file, problem=Unusable("empty"))
    try:
        with file.path.open("rb") as lines:
            number = offset = 0
            while line := lines.readline(MAX_BYTES):
                number += 1
                size, is_empty = len(line), not line.strip()
                while not line.endswith(b"\n") and (line := lines.readline(MAX_BYTES)):
                    size += len(line)
                if not is_empty:
                    problem = Unusable("too-big", f"more than {MAX_BYTES:,} bytes") if size > MAX_BYTES else None
                    name = f"{file.name}:{number}"
                    yield replace(file, name=name, problem=problem, num_bytes=size, offset=offset)
                offset += size
    except OSError as error:
        yield replace(file, problem=Unusable("unreadable", error.strerror or str(error)))


def _problem(path: Path, mode: int, root: Path) -> Unusable | None:
    """Why the path is not read, by what it is and by its name."""
    if stat.S_ISLNK(mode):
        return _link_problem(path, root)
    if stat.S_ISDIR(mode):
        return _folder_problem(path.name) if path != root else None
    if not stat.S_ISREG(mode):
        return Unusable("not-a-file")
    if path.stem.upper() == "ATTRIBUTION":
        return Unusable("attribution")
    return None if kind_of(path) or path.suffix.lower() == JSONL else Unusable("other-kind")


def _folder_problem(name: str) -> Unusable | None:
    if name in TOOL_FOLDERS:
        return Unusable("tool-folder")
    return Unusable("unfinished") if name.startswith(".") and name.endswith(PARTIAL) else None


def _link_problem(path: Path, root: Path) -> Unusable:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return Unusable("link-broken")
    return Unusable("link" if target.is_relative_to(root) else "link-out")


def _readable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def suffixes() -> str:
    """What is read, for a message."""
    return " ".join([*KINDS, JSONL])
