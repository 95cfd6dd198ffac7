"""A corpus: the Markdown, Dart and text files below one folder."""

import unicodedata
from pathlib import Path

SUFFIXES = (".md", ".dart", ".txt")


class CorpusInvalid(ValueError):
    """A corpus that cannot be trained on; the message is one sentence that says what to do."""


def read_documents(folder: Path) -> list[str]:
    """The folder's documents in the order of their paths, in NFC, blank ones left out.

    Bytes that are no UTF-8 become U+FFFD. A link that leads out of the folder is not followed.

    Raises: CorpusInvalid where the folder is missing, cannot be read, or holds no text.
    """
    if not folder.is_dir():
        raise CorpusInvalid(f"There is no folder {folder}: name one that holds {_suffixes()} files.")
    documents = [text for path in _paths(folder) if (text := _read(path)).strip()]
    if not documents:
        raise CorpusInvalid(f"{folder} holds no text: put {_suffixes()} files with something in them there.")
    return documents


def _paths(folder: Path) -> list[Path]:
    root = folder.resolve()
    try:
        found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    except OSError as error:
        raise CorpusInvalid(f"{folder} cannot be read ({error.strerror}): change its permissions.") from error
    inside = [path for path in found if path.resolve().is_relative_to(root)]
    return sorted(inside, key=lambda path: path.relative_to(folder).as_posix())


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CorpusInvalid(f"{path} cannot be read ({error.strerror}): change its permissions or move it.") from error
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff"))


def _suffixes() -> str:
    return " ".join(SUFFIXES)
