"""Raw files to samples: DATA/samples, DATA/samples.txt and DATA/prepare-report.json.

Files are decoded, cleaned and sketched in a process per core, some batches ahead; duplicates are then taken out in the
order of the paths, so that the bytes do not depend on who was faster. Main memory holds those few batches; what has to
be remembered lies on the disk. Everything is built in a folder inside DATA and takes its place when it is whole.
"""

import contextlib
import multiprocessing
import shutil
import signal
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Self

from ml.bad_input import BadInput, CorpusInvalid
from ml.cleaning import SEPARATOR
from ml.corpus import Found, find_files, require_folder, suffixes, take_new
from ml.documents import Document, Unusable
from ml.duplicates import Seen
from ml.files import partial_beside, sha256_file
from ml.locks import writing_in
from ml.prepare_report import ReportWriter
from ml.sample_names import SampleFolder
from ml.samples import FOLDER, REPORT_FILE
from ml.threads import num_cores

SAMPLES_FILE = "samples.txt"
OUTPUTS = (FOLDER, SAMPLES_FILE, REPORT_FILE)
BATCH_FILES = 64
BATCH_BYTES = 2**20
BATCHES_AHEAD = 2
MAX_PROCESSES = 8
"""More would wait for the one that takes duplicates out."""

Progress = Callable[[int], None]
"""Told how many files are done."""


class PreparationRefused(BadInput):
    """Samples are there already, or there is no place for them."""

    page: ClassVar[str] = "commands"


def prepare(
    folders: Sequence[Path],
    *,
    out: Path,
    force: bool = False,
    num_processes: int | None = None,
    progress: Progress = lambda num_files: None,
) -> dict[str, Any]:
    """Make samples of the files below the folders; the report without its list of files.

    The same files give the same bytes, with any number of processes and in whatever order the disk lists them.

    Raises: CorpusInvalid, PreparationRefused, ml.locks.FolderBusy, ml.locks.FolderUnusable.
    """
    for folder in folders:
        require_folder(folder)
        if out.resolve().is_relative_to(folder.resolve()):
            raise PreparationRefused(f"{out} lies inside {folder}: name another folder with --out.")
    _require_absent(out, force=force)
    num_processes = num_processes or min(num_cores(), MAX_PROCESSES)
    try:
        with writing_in(out), _building_in(out) as scratch:
            _require_absent(out, force=force)
            summary = _build(folders, scratch, num_processes, progress)
            _replace(scratch, out)
    except (OSError, sqlite3.OperationalError) as error:
        raise PreparationRefused(
            f"{out} cannot be written ({error}): make room or choose another folder, and run `fai prepare` again."
        ) from error
    except BrokenProcessPool as error:
        raise PreparationRefused(
            "The system ended a process that cleaned files, most likely for want of memory: close other programs, and"
            " run `fai prepare` again."
        ) from error
    return summary


def _require_absent(out: Path, *, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise PreparationRefused(f"{out} is a file: name a folder with --out.")
    there = [name for name in OUTPUTS if (out / name).exists()]
    if there and not force:
        raise PreparationRefused(f"{out / there[0]} is there already: give `fai prepare` --force to replace it.")


@contextlib.contextmanager
def _building_in(out: Path) -> Iterator[Path]:
    """A new folder inside `out`, which is gone afterwards."""
    scratch = partial_beside(out / "prepare")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


def _replace(scratch: Path, out: Path) -> None:
    """Put what was built in the place of what was there; the report last, since it says that all is whole."""
    for name in reversed(OUTPUTS):
        if (out / name).exists():
            (out / name).rename(scratch / f"old-{name}")
    for name in OUTPUTS:
        (scratch / name).rename(out / name)


def _build(folders: Sequence[Path], scratch: Path, num_processes: int, progress: Progress) -> dict[str, Any]:
    (scratch / FOLDER).mkdir()
    samples = SampleFolder(scratch / FOLDER)
    found = (_Raw.of(folder, file) for folder in folders for file in find_files(folder))
    with (
        Seen(scratch / "seen.sqlite") as seen,
        (scratch / SAMPLES_FILE).open("w", encoding="utf-8", newline="\n") as together,
        ReportWriter(scratch / REPORT_FILE, scratch=scratch / "files.jsonl") as report,
        contextlib.closing(_read_all(found, num_processes)) as results,
    ):
        for number, (raw, result) in enumerate(results, start=1):
            try:
                document = _require_document(result)
                text = take_new(document, name=raw.name, seen=seen)
            except Unusable as problem:
                report.add_left_out(site=raw.site, name=raw.name, problem=problem)
            else:
                together.write(f"{SEPARATOR}\n" if together.tell() else "")
                together.write(text if text.endswith("\n") else f"{text}\n")
                reasons = document.reasons
                if not raw.save(text, document.language, samples):
                    reasons = reasons + Counter({"file-name": 1})
                report.add_kept(site=raw.site, name=raw.name, document=document, text=text, reasons=reasons)
            progress(number)
        if not together.tell():
            raise CorpusInvalid(
                f"{', '.join(map(str, folders))} holds no text: put {suffixes()} files there, or download some with"
                " `fai fetch`."
            )
        together.flush()
        return report.finish(samples_sha256=sha256_file(scratch / SAMPLES_FILE))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Raw:
    """A file, and where its sample goes."""

    file: Found
    site: str
    name: str
    """Site and path, parted by slashes."""

    @classmethod
    def of(cls, folder: Path, file: Found) -> Self:
        site, slash, _ = file.name.partition("/")
        own = folder.resolve().name
        return cls(file=file, site=site if slash else own, name=file.name if slash else f"{own}/{file.name}")

    def save(self, text: str, language: str, samples: SampleFolder) -> bool:
        """Put the sample into the folder; whether its name was taken as it is."""
        if self.file.offset is None:
            return samples.add(text, name=self.name)
        name = self.name.rpartition(":")[0]
        return samples.add_line(text, name=name, language=language, source=self.file.path)


def _require_document(result: Document | Unusable) -> Document:
    if isinstance(result, Unusable):
        raise result
    return result


def _read_all(raws: Iterator[_Raw], num_processes: int) -> Generator[tuple[_Raw, Document | Unusable], None, None]:
    """Each file with what was read from it, in the order given, a few batches ahead."""
    batches = _batches(raws)
    first = list(islice(batches, 2))
    if num_processes == 1 or len(first) < 2:
        for batch in chain(first, batches):
            yield from zip(batch, _read_batch([raw.file for raw in batch]), strict=True)
        return
    # Spawned, since a thread of a progress display must not be forked.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_leave_interrupts_to_the_parent) as pool:
        waiting: deque[tuple[list[_Raw], Future[list[Document | Unusable]]]] = deque()
        try:
            for batch in chain(first, batches):
                with _interrupts_held():
                    waiting.append((batch, pool.submit(_read_batch, [raw.file for raw in batch])))
                if len(waiting) > BATCHES_AHEAD * num_processes:
                    yield from _take_first(waiting)
            while waiting:
                yield from _take_first(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _take_first(
    waiting: deque[tuple[list[_Raw], "Future[list[Document | Unusable]]"]],
) -> Iterator[tuple[_Raw, Document | Unusable]]:
    batch, future = waiting.popleft()
    yield from zip(batch, future.result(), strict=True)


def _batches(raws: Iterator[_Raw]) -> Iterator[list[_Raw]]:
    batch: list[_Raw] = []
    size = 0
    for raw in raws:
        batch.append(raw)
        size += 0 if raw.file.problem else raw.file.num_bytes
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_batch(files: Sequence[Found]) -> list[Document | Unusable]:
    results: list[Document | Unusable] = []
    for file in files:
        try:
            results.append(file.read())
        except Unusable as problem:
            results.append(problem)
    return results


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started in here never sees Ctrl+C, not even before its initializer runs."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl+C reaches every process of the terminal; the parent alone ends the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
