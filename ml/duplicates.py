"""Finds what was there before: the same document, nearly the same one, the same paragraph.

The memory of it lies in a temporary SQLite database with a bounded cache, so that a corpus of any size is compared in
the same main memory. Whoever comes first stays; callers hand documents over in the order of their paths.

Near-duplicates are found by MinHash over runs of five words. rensa does it: it hashes alike on every machine and in
every process, is 14 times as fast as datasketch, and needs neither NumPy nor SciPy, which take 80 MB in each process.
A short document has too few runs for that, and only its exact copy is found.
"""

import hashlib
import re
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rensa import RMinHash

NEAR = 0.8
"""Jaccard similarity of the sets of five-word runs from which on documents are nearly the same."""
WORDS = 5
MIN_RUNS = 20
NUM_HASHES = 128
# Source: Mining of Massive Datasets, 3.4: 16 bands of 8 find a pair of similarity 0.8 with a probability of 95%.
NUM_BANDS = 16
SEED = 1
CACHE_KIB = 8_192
MAX_CANDIDATES = 64
SLICE_CHARACTERS = 2**17

_WORD = re.compile(r"\w+")
_MAX_VARIABLES = 500


def fingerprint(text: str) -> bytes:
    """Equal for texts that differ in white space alone."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()[:16]


def sketch(text: str) -> bytes:
    """MinHash of the text's runs of words; empty where it has fewer than MIN_RUNS."""
    minhash = RMinHash(num_perm=NUM_HASHES, seed=SEED)
    num_runs = 0
    for runs in _runs(text):
        minhash.update(runs)
        num_runs += len(runs)
    return array("I", minhash.digest()).tobytes() if num_runs >= MIN_RUNS else b""


class Seen:
    """What has come so far."""

    def __init__(self, path: Path) -> None:
        """An empty memory in a new file, which the caller removes."""
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            f"""
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -{CACHE_KIB};
            CREATE TABLE document (id INTEGER PRIMARY KEY, name TEXT, fingerprint BLOB UNIQUE, sketch BLOB);
            CREATE TABLE band (hash INTEGER, document INTEGER, PRIMARY KEY (hash, document)) WITHOUT ROWID;
            CREATE TABLE line (hash INTEGER PRIMARY KEY) WITHOUT ROWID;
            BEGIN;
            """
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def find_same(self, fingerprint: bytes) -> str | None:
        """The name of the document with the same words."""
        row = self._database.execute("SELECT name FROM document WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return row and str(row[0])

    def find_near(self, sketch: bytes) -> str | None:
        """The name of the most similar document, of those at least NEAR; the earliest of equals."""
        if not sketch:
            return None
        marks = ",".join("?" * NUM_BANDS)
        rows = self._database.execute(
            f"SELECT name, sketch FROM document WHERE id IN (SELECT document FROM band WHERE hash IN ({marks})"
            " ORDER BY document LIMIT ?) ORDER BY id",
            (*_bands(sketch), MAX_CANDIDATES * NUM_BANDS),
        )
        best, name = 0.0, None
        for candidate, other in rows:
            similarity = _similarity(sketch, other)
            if similarity >= NEAR and similarity > best:
                best, name = similarity, str(candidate)
        return name

    def add(self, *, name: str, fingerprint: bytes, sketch: bytes) -> None:
        """Remember a document."""
        number = self._database.execute(
            "INSERT INTO document (name, fingerprint, sketch) VALUES (?, ?, ?)", (name, fingerprint, sketch)
        ).lastrowid
        if sketch:
            self._database.executemany(
                "INSERT OR IGNORE INTO band VALUES (?, ?)", [(band, number) for band in _bands(sketch)]
            )

    def find_lines(self, hashes: Sequence[int]) -> set[int]:
        """Those of the lines' hashes that an earlier document has."""
        known: set[int] = set()
        for start in range(0, len(hashes), _MAX_VARIABLES):
            some = hashes[start : start + _MAX_VARIABLES]
            marks = ",".join("?" * len(some))
            known.update(
                row[0] for row in self._database.execute(f"SELECT hash FROM line WHERE hash IN ({marks})", some)
            )
        return known

    def add_lines(self, hashes: Sequence[int]) -> None:
        """Remember a document's lines."""
        self._database.executemany("INSERT OR IGNORE INTO line VALUES (?)", [(value,) for value in hashes])


def _runs(text: str) -> Iterator[list[str]]:
    """The runs of WORDS words, a few thousand at a time; a word at the seam of two slices counts as two."""
    words: list[str] = []
    for start in range(0, len(text), SLICE_CHARACTERS):
        words = words[1 - WORDS :] + _WORD.findall(text, start, start + SLICE_CHARACTERS)
        yield [" ".join(run) for run in zip(*(words[first:] for first in range(WORDS)), strict=False)]


def _bands(sketch: bytes) -> list[int]:
    size = len(sketch) // NUM_BANDS
    return [
        int.from_bytes(
            hashlib.blake2b(sketch[size * band : size * (band + 1)], digest_size=8, salt=bytes([band])).digest(),
            "big",
            signed=True,
        )
        for band in range(NUM_BANDS)
    ]


def _similarity(one: bytes, other: bytes) -> float:
    pairs = zip(memoryview(one).cast("I"), memoryview(other).cast("I"), strict=True)
    return sum(first == second for first, second in pairs) / NUM_HASHES
