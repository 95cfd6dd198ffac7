"""Bring the Korean catalogue up to date with the sources, and compile it: python tools/messages.py

New messages come in untranslated; messages that no source has go out. A test holds both files to the sources.
"""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("fai_project", "contributors", "training", "inference")
CATALOGUE = ROOT / "fai_project" / "locale" / "ko" / "LC_MESSAGES" / "django.po"
KEYWORDS = {
    **DEFAULT_KEYWORDS,
    "_": None,
    "gettext": None,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext_lazy": ((1, "c"), 2, 3),
}


def extract_messages() -> Catalog:
    """Every message in the server's Python files and templates, at the file that has it."""
    catalog = Catalog(locale="ko", charset="utf-8")
    for path in sorted(_files()):
        source = path.read_bytes() if path.suffix == ".py" else _as_python(path)
        place = path.relative_to(ROOT).as_posix()
        for line, message, _comments, context in extract("python", io.BytesIO(source), KEYWORDS):
            catalog.add(message, locations=[(place, line)], context=context)
    return catalog


def _files() -> Iterator[Path]:
    for name in SOURCES:
        for path in (ROOT / name).rglob("*"):
            if path.suffix in {".py", ".html", ".txt"} and "migrations" not in path.parts:
                yield path


def _as_python(path: Path) -> bytes:
    """The template as calls of gettext. Indentation means nothing in it, and would stop the tokenizer."""
    calls = templatize(path.read_text(encoding="utf-8"), origin=str(path))
    return "\n".join(line.strip() for line in calls.splitlines()).encode()


def read_catalogue() -> Catalog:
    """The translations as they are on disk."""
    with CATALOGUE.open("rb") as file:
        return read_po(file, locale="ko")


def update() -> list[Message]:
    """Merge what the sources say into the catalogue; returns the messages that await a translation."""
    catalog = read_catalogue() if CATALOGUE.exists() else new_catalogue()
    sources = extract_messages()
    sources.creation_date = catalog.creation_date  # the same sources, the same file
    catalog.update(sources, no_fuzzy_matching=True)
    catalog.obsolete.clear()
    with CATALOGUE.open("wb") as file:
        write_po(file, catalog, width=120, sort_by_file=True, include_lineno=False)
    with CATALOGUE.with_suffix(".mo").open("wb") as file:
        write_mo(file, catalog)
    return [message for message in catalog if message.id and not is_translated(message)]


def new_catalogue() -> Catalog:
    header = "# Korean texts of the pages and the admin. Sources are read by tools/messages.py."
    return Catalog(locale="ko", charset="utf-8", header_comment=header, project="FAI", fuzzy=False)


def is_translated(message: Message) -> bool:
    """Whether each form of the message has a text."""
    texts = message.string if isinstance(message.string, (list, tuple)) else (message.string,)
    return all(texts)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")
    sys.path.insert(0, str(ROOT))
    import django

    django.setup()
    missing = update()
    for message in missing:
        print(f"untranslated: {message.id!r}")
    sys.exit(1 if missing else 0)
