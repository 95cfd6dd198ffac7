"""DATA/prepare-report.json: how much there was, what became of it, and every file that was left out or changed."""

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ml.documents import Document, Unusable
from ml.reasons import REASONS

FORMAT = 1
_COUNTS = ("files", "kept", "changed", "left_out", "characters_in", "characters_out")


class ReportWriter:
    """Counts in memory, the list of files on the disk, so that a corpus of any size has a report."""

    def __init__(self, path: Path, *, scratch: Path) -> None:
        """The report goes to `path` when `finish` is called; `scratch` is free for the list until then."""
        self._path = path
        self._list = scratch.open("w+", encoding="utf-8", newline="\n")
        self._totals: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {}
        self._sites: dict[str, Counter[str]] = {}
        self._languages: dict[str, Counter[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._list.close()

    def add_left_out(self, *, site: str, name: str, problem: Unusable) -> None:
        """A file that gave no document."""
        for counts in (self._totals, self._of(self._sites, site)):
            counts.update(files=1, left_out=1)
        self._count_reason(problem.reason, 1)
        detail = {"detail": problem.detail} if problem.detail else {}
        self._write({"path": name, "status": "left out", "reasons": {problem.reason: 1}, **detail})

    def add_kept(self, *, site: str, name: str, document: Document, text: str, reasons: Counter[str]) -> None:
        """A file whose text is kept, with what was done to it."""
        for counts in (self._totals, self._of(self._sites, site), self._of(self._languages, document.language)):
            counts.update(
                files=1,
                kept=1,
                changed=bool(reasons),
                characters_in=document.characters_in,
                characters_out=len(text),
            )
        self._of(self._sites, site)[document.language] += 1
        for reason, times in reasons.items():
            self._count_reason(reason, times)
        if reasons:
            self._write({"path": name, "status": "changed", "reasons": dict(sorted(reasons.items()))})

    def finish(self, *, samples_sha256: str) -> dict[str, Any]:
        """Write the report; what it says without its list of files."""
        summary = {
            "format": FORMAT,
            "samples_sha256": samples_sha256,
            "totals": _with_zeros(self._totals),
            "reasons": {
                reason: {**self._reasons[reason], "what": REASONS[reason]}
                for reason in REASONS
                if reason in self._reasons
            },
            "sites": {site: _site(counts) for site, counts in sorted(self._sites.items())},
            "languages": {language: _with_zeros(counts) for language, counts in sorted(self._languages.items())},
        }
        self._list.seek(0)
        with self._path.open("w", encoding="utf-8", newline="\n") as file:
            head = json.dumps(summary, ensure_ascii=False, indent=1)
            file.write(head.removesuffix("\n}") + ',\n "files": [')
            separator = "\n  "
            for line in self._list:
                file.write(separator + line.rstrip("\n"))
                separator = ",\n  "
            file.write("\n ]\n}\n")
        return summary

    def _count_reason(self, reason: str, times: int) -> None:
        self._of(self._reasons, reason).update(files=1, times=times)

    def _write(self, entry: dict[str, Any]) -> None:
        self._list.write(json.dumps(entry, ensure_ascii=False) + "\n")

    @staticmethod
    def _of(counts: dict[str, Counter[str]], key: str) -> Counter[str]:
        return counts.setdefault(key, Counter())


def _with_zeros(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in _COUNTS}


def _site(counts: Counter[str]) -> dict[str, Any]:
    languages = {name: counts[name] for name in sorted(set(counts) - set(_COUNTS))}
    return {**_with_zeros(counts), "languages": languages}
