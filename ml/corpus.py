"""A corpus: the Markdown, Dart and text files below one folder."""

import os
import unicodedata
from pathlib import Path
from typing import NoReturn

from ml.bad_input import BadInput

SUFFIXES = (".md", ".dart", ".txt")


class CorpusInvalid(BadInput):
    """A corpus that cannot be trained on."""

    page = "data"


def read_documents(folder: Path) -> list[str]:
    """The folder's documents in the order of their paths, in NFC, blank ones left out.

    Bytes that are no UTF-8 become U+FFFD. A link that leads out of the folder is not followed.

    Raises: CorpusInvalid where the folder is missing, holds no text, or anything in it cannot be read.
    """
    try:
        if not folder.is_dir():
            raise CorpusInvalid(f"There is no folder {folder}: name one that holds {_suffixes()} files.")
        documents = [text for path in _paths(folder) if (text := _read(path)).strip()]
    except OSError as error:
        raise CorpusInvalid(
            f"{error.filename} cannot be read ({error.strerror}): change its permissions, or move it out of the corpus."
        ) from error
    if not documents:
        raise CorpusInvalid(f"{folder} holds no text: put {_suffixes()} files with something in them there.")
    return documents


def _paths(folder: Path) -> list[Path]:
    root = folder.resolve()
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=_raise)
        for name in names
        if name.lower().endswith(SUFFIXES)
    ]
    # A link to nothing is no file, and resolving a link to itself would raise.
    inside = [path for path in found if path.is_file() and path.resolve().is_relative_to(root)]
    return sorted(inside, key=lambda path: path.relative_to(folder).as_posix())


def _raise(error: OSError) -> NoReturn:
    raise error


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff"))


def _suffixes() -> str:
    return " ".join(SUFFIXES)
