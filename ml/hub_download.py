"""Downloads a Hugging Face dataset as JSONL, part by part, and goes on where it was interrupted."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi

# The HTTP library's own error, whichever library this release uses.
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from ml.bad_input import BadInput
from ml.files import remove_folder, replacing
from ml.sources import HubSource, SourceInvalid, Taken, unreachable

PART_DOCUMENTS = 10_000
STATE_FILE = "state.json"
"""Only while the download is not complete."""


@dataclass(kw_only=True, slots=True)
class _State:
    """How far a download is: written after each part, so that parts beyond it are written again."""

    revision: str
    date: str
    num_parts: int = 0
    rows: dict[str, Any] | None = None
    """What datasets needs to go on after the last row that was read."""
    pending: list[str] = field(default_factory=list)
    """Lines that were read of a document whose end was not."""


def download(source: HubSource, folder: Path) -> Taken:
    """Put the source's documents into `folder` as part-NNNNN.jsonl, going on after the last whole part.

    Raises: SourceUnreachable; SourceInvalid where the rows have no text.
    """
    try:
        state = _begin(source, folder)
        rows = datasets.load_dataset(
            source.dataset, name=source.config, split=source.split, streaming=True, revision=state.revision or None
        )
        if state.rows is not None:
            rows.load_state_dict(state.rows)
        _download(source, folder, rows, state)
    except (OSError, HTTPError, DatasetsError) as error:
        raise unreachable(source, _first_line(error)) from error
    except BadInput:
        raise
    except ValueError as error:
        raise SourceInvalid(f"{source.name}: {_first_line(error)}; change it in the list of sources.") from error
    (folder / STATE_FILE).unlink()
    return Taken(revision=state.revision, date=state.date, licence_texts={})


def _begin(source: HubSource, folder: Path) -> _State:
    path = folder / STATE_FILE
    if path.exists():
        return _State(**json.loads(path.read_text(encoding="utf-8")))
    remove_folder(folder)
    folder.mkdir(parents=True)
    if Path(source.dataset).is_dir():
        state = _State(revision="", date="")
    else:
        info = HfApi().dataset_info(source.dataset)
        state = _State(revision=info.sha or "", date=f"{info.last_modified:%Y-%m-%d}" if info.last_modified else "")
    _save(state, folder)
    return state


def _download(source: HubSource, folder: Path, rows: datasets.IterableDataset, state: _State) -> None:
    part: list[str] = []
    for document in _documents(rows, source, state):
        part.append(document)
        if len(part) == PART_DOCUMENTS:
            _write_part(source, folder, part, state.num_parts)
            state.num_parts += 1
            state.rows = rows.state_dict()
            _save(state, folder)
            part = []
    if part:
        _write_part(source, folder, part, state.num_parts)


def _documents(rows: Iterable[dict[str, Any]], source: HubSource, state: _State) -> Iterator[str]:
    if not source.document_start:
        yield from _texts(rows, source)
        return
    start = re.compile(source.document_start)
    for line in _texts(rows, source):
        whole, state.pending = (state.pending, []) if start.match(line) else ([], state.pending)
        state.pending.append(line.rstrip("\n"))
        if whole:
            yield "\n".join(whole)
    if state.pending:
        yield "\n".join(state.pending)


def _texts(rows: Iterable[dict[str, Any]], source: HubSource) -> Iterator[str]:
    for row in rows:
        if not isinstance(row.get("text"), str):
            raise SourceInvalid(
                f"{source.name}: {source.origin} has the columns {', '.join(row)}, none of them text: name another."
            )
        yield row["text"]


def _write_part(source: HubSource, folder: Path, documents: list[str], number: int) -> None:
    with replacing(folder / f"part-{number:05}.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
        for text in documents:
            line = {"text": text, "site": source.name, "language": source.language}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _save(state: _State, folder: Path) -> None:
    with replacing(folder / STATE_FILE) as partial:
        partial.write_text(json.dumps(asdict(state), ensure_ascii=False), encoding="utf-8")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
