"""Finished work on disk until the coordinator has acknowledged it."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml import protocol
from ml.files import replacing
from ml.protocol import Report

DELTA_NAME = "delta.safetensors"
ENTRY_NAME = "entry.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One finished, or partly finished, attempt. It counts once its entry file is there."""

    folder: Path
    attempt_id: int
    sha256: str
    report: Report

    @property
    def delta_path(self) -> Path:
        return self.folder / DELTA_NAME


class Outbox:
    """Entries of one device, a folder for each attempt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, attempt_id: int) -> Path:
        """An empty folder to write the delta into."""
        folder = self.folder / str(attempt_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def add(self, *, attempt_id: int, sha256: str, report: Report) -> Entry:
        """Make the delta that lies in the attempt's folder an entry."""
        folder = self.folder / str(attempt_id)
        data = {"attempt_id": attempt_id, "sha256": sha256, "report": dataclasses.asdict(report)}
        with replacing(folder / ENTRY_NAME) as temporary:
            temporary.write_text(json.dumps(data), encoding="utf-8")
        return Entry(folder=folder, attempt_id=attempt_id, sha256=sha256, report=report)

    def remove(self, attempt_id: int) -> None:
        shutil.rmtree(self.folder / str(attempt_id), ignore_errors=True)

    def leftovers(self) -> list[Entry]:
        """Entries of an earlier run, oldest attempt first; what never became an entry is deleted."""
        if not self.folder.is_dir():
            return []
        entries = []
        for folder in sorted(self.folder.iterdir()):
            entry = _read(folder)
            if entry is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                entries.append(entry)
        return sorted(entries, key=lambda entry: entry.attempt_id)


def _read(folder: Path) -> Entry | None:
    try:
        data: dict[str, Any] = json.loads((folder / ENTRY_NAME).read_text(encoding="utf-8"))
        report = protocol.decode(Report, data["report"])
        entry = Entry(folder=folder, attempt_id=data["attempt_id"], sha256=data["sha256"], report=report)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry if entry.delta_path.is_file() else None
