"""The sources of text that can be fetched: ml/sources.toml, or a file like it."""

import dataclasses
import difflib
import importlib.resources
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ml.bad_input import BadInput

LISTED = importlib.resources.files("ml") / "sources.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class SourceInvalid(BadInput):
    """A source that is not listed, or is listed wrongly."""

    page: ClassVar[str] = "data"


class SourceUnreachable(BadInput):
    """A source that could not be downloaded just now."""

    page: ClassVar[str] = "data"


@dataclass(frozen=True, kw_only=True, slots=True)
class GitSource:
    """Files of a git repository."""

    name: str
    what: str
    language: str
    licence: str
    """An SPDX expression."""
    repo: str
    paths: list[str]
    """Which files to keep, as patterns of .gitignore."""
    ref: str = "HEAD"
    notice: str = ""

    @property
    def origin(self) -> str:
        return self.repo


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """A Hugging Face dataset, or a folder with one."""

    name: str
    what: str
    language: str
    licence: str
    """An SPDX expression."""
    dataset: str
    config: str | None = None
    split: str = "train"
    document_start: str = ""
    """Where rows are lines: what the first line of a document matches; else each row is a document."""
    notice: str = ""

    @property
    def origin(self) -> str:
        return self.dataset if Path(self.dataset).is_dir() else f"https://huggingface.co/datasets/{self.dataset}"


Source = GitSource | HubSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What the files of a source are copies of."""

    revision: str
    date: str
    """Of the revision, YYYY-MM-DD."""
    licence_texts: dict[str, str]
    """By the name of the file."""


def unreachable(source: Source, why: object) -> SourceUnreachable:
    """The error of a source, with what a person can do."""
    return SourceUnreachable(
        f"{source.name} could not be fetched from {source.origin} ({why}): "
        "what is done is kept; look at the network, and run the same command again."
    )


def read_sources(path: Path | None = None) -> dict[str, Source]:
    """The sources of a file by name; of ml/sources.toml without one.

    Raises: SourceInvalid.
    """
    listed = LISTED if path is None else path
    try:
        tables = tomllib.loads(listed.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceInvalid(f"{listed} cannot be read ({error.strerror}): name a file like ml/sources.toml.") from error
    except ValueError as error:
        raise SourceInvalid(f"{listed} is no TOML ({error}): mend it, or fetch without --sources.") from error
    return {name: _source(name, table, listed=str(listed)) for name, table in tables.items()}


def choose(sources: dict[str, Source], names: Sequence[str]) -> list[Source]:
    """The named sources, each once.

    Raises: SourceInvalid, with the name that comes nearest.
    """
    for name in names:
        if name not in sources:
            nearest = difflib.get_close_matches(name, sources, n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise SourceInvalid(f"There is no source {name!r}: {hint}`fai fetch --list` shows all.")
    return [sources[name] for name in dict.fromkeys(names)]


def _source(name: str, table: Any, *, listed: str) -> Source:
    where = f"{listed}, [{name}]"
    if not _NAME.fullmatch(name):
        raise SourceInvalid(f"{where}: a name is a folder's, of small letters, digits, '.', '_' and '-'; change it.")
    if not isinstance(table, dict):
        raise SourceInvalid(f"{where} is no table: write the source's lines below its name.")
    kind = GitSource if "repo" in table else HubSource
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != "name"}
    for key in table:
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)[0]
            raise SourceInvalid(f"{where} has a key {key!r}: did you mean {nearest!r}?")
    for key, field in fields.items():
        if key not in table and field.default is dataclasses.MISSING:
            raise SourceInvalid(f"{where} has no {key!r}: add it.")
        _require_text(table.get(key, ""), many=key == "paths", what=f"{where}, {key}")
    return kind(name=name, **table)


def _require_text(value: Any, *, many: bool, what: str) -> None:
    texts = value if many and isinstance(value, list) and value else [value]
    if not all(isinstance(text, str) for text in texts) or (many and texts is not value):
        raise SourceInvalid(f"{what} is {value!r}: write {'a list of texts' if many else 'a text'}.")
