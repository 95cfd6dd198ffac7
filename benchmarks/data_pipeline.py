"""Time, memory and sameness of `fai prepare`, `tokenizer` and `dataset`, and of prepare at ten times the corpus.

Each command is a process of its own, measured with all processes that it starts. The larger corpus is the same one ten
times, half of the longer words of each copy made other words, so that no copy is a duplicate.

python -m benchmarks.data_pipeline [--corpus DIR] [--quick]

DIR holds folders for `fai prepare`, one folder per site in each. Without it, and with --quick, the corpus is made of
data/sample, and the figures say nothing of a real one.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import Goal, print_goals, print_table
from ml.files import sha256_file

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
PIPELINE_SECONDS = 120
PIPELINE_BYTES = 1_500_000_000
FACTOR = 10
TIME_RATIO = 12.0
MEMORY_RATIO = 1.2
POLL_SECONDS = 0.05
QUICK_COPIES = 8
VOCAB_SIZE, QUICK_VOCAB_SIZE = 24_000, 4_000
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What a command took, its children included."""

    seconds: float
    peak_bytes: int
    """Proportional set size: what processes share counts once."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_pipeline")
    parser.add_argument("--corpus", type=Path, help="folder of raw folders")
    parser.add_argument("--quick", action="store_true", help="a small corpus made of data/sample")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fai-data-pipeline-") as name:
        folder = Path(name)
        is_quick = options.quick or options.corpus is None
        if is_quick:
            multiply(SAMPLE, folder / "raw" / "sample", copies=QUICK_COPIES)
        corpus = folder / "raw" if is_quick else options.corpus
        raws = sorted(path for path in corpus.iterdir() if path.is_dir())
        compare(raws, folder, vocab_size=QUICK_VOCAB_SIZE if is_quick else VOCAB_SIZE, is_quick=is_quick)


def compare(raws: Sequence[Path], folder: Path, *, vocab_size: int, is_quick: bool) -> None:
    once = run_pipeline(raws, folder / "once", vocab_size)
    again = run_pipeline(raws, folder / "again", vocab_size)
    is_same = digest(folder / "once") == digest(folder / "again")
    for raw in raws:
        multiply(raw, folder / "large" / raw.name, copies=FACTOR)
    large = measure(prepare_command([folder / "large" / raw.name for raw in raws], folder / "large-data"))
    seconds = sum(measurement.seconds for measurement in once.values())
    peak_bytes = max(measurement.peak_bytes for measurement in once.values())
    time_ratio = large.seconds / once["prepare"].seconds
    memory_ratio = large.peak_bytes / once["prepare"].peak_bytes
    what = "data/sample, eightfold" if is_quick else "the corpus"
    print_goals(
        Goal(
            measured=f"{seconds:.0f} s",
            wanted=f"under {PIPELINE_SECONDS} s",
            reached=seconds < PIPELINE_SECONDS,
            what=f"prepare, tokenizer and dataset of {what}",
        ),
        Goal(
            measured=f"{peak_bytes / 1e6:,.0f} MB",
            wanted=f"under {PIPELINE_BYTES / 1e6:,.0f} MB",
            reached=peak_bytes < PIPELINE_BYTES,
            what="their peak memory, all processes together",
        ),
        Goal(measured="same" if is_same else "differ", wanted="same", reached=is_same, what="bytes of a second run"),
        Goal(
            measured=f"{time_ratio:.1f}x",
            wanted=f"about {FACTOR}x",
            reached=time_ratio <= TIME_RATIO,
            what=f"time of prepare for {FACTOR} times the corpus",
        ),
        Goal(
            measured=f"{memory_ratio:.2f}x",
            wanted="about 1x",
            reached=memory_ratio <= MEMORY_RATIO,
            what="its peak memory",
        ),
    )
    rows = [(name, taken, again[name]) for name, taken in once.items()]
    print_table(
        ("command", "MB of text", "seconds", "second run", "peak MB"),
        [
            *(cells(name, text_bytes(folder / "once"), taken, f"{other.seconds:.1f}") for name, taken, other in rows),
            cells(f"prepare, {FACTOR}x", text_bytes(folder / "large-data"), large, ""),
        ],
    )


def run_pipeline(raws: Sequence[Path], data: Path, vocab_size: int) -> dict[str, Measurement]:
    return {
        "prepare": measure(prepare_command(raws, data)),
        "tokenizer": measure(["tokenizer", str(data), "--vocab-size", str(vocab_size)]),
        "dataset": measure(["dataset", str(data)]),
    }


def prepare_command(raws: Sequence[Path], data: Path) -> list[str]:
    return ["prepare", *map(str, raws), "--out", str(data)]


def measure(command: Sequence[str]) -> Measurement:
    """Run one `fai` command to its end."""
    start = time.perf_counter()
    peak = 0
    done = threading.Event()
    with subprocess.Popen([sys.executable, "-m", "fai.cli", *command], stdout=subprocess.DEVNULL) as process:

        def watch() -> None:
            nonlocal peak
            while not done.wait(POLL_SECONDS):
                peak = max(peak, sum(map(memory_bytes, family(process.pid))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        exit_code = process.wait()
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    if exit_code:
        raise SystemExit(f"fai {' '.join(command)} ended with exit code {exit_code}")
    return Measurement(seconds=seconds, peak_bytes=peak)


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in _read(path).split()]
    return found


def memory_bytes(pid: int) -> int:
    match = re.search(r"^Pss:\s+(\d+) kB", _read(Path(f"/proc/{pid}/smaps_rollup")), re.MULTILINE)
    return int(match[1]) * 1_024 if match else 0


def _read(path: Path) -> str:
    """Nothing where the process ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def multiply(raw: Path, large: Path, *, copies: int) -> None:
    """The folder's files, `copies` times below `large`, each time with other words."""
    for path in raw.rglob("*"):
        if path.is_file():
            site, *rest = path.relative_to(raw).parts
            text = path.read_text(encoding="utf-8", errors="replace")
            for number in range(copies):
                other = large / f"{site}-{number}" / Path(*rest) if rest else large / f"{number}-{site}"
                other.parent.mkdir(parents=True, exist_ok=True)
                other.write_text(with_other_words(text, number) if number else text, encoding="utf-8")


def with_other_words(text: str, number: int) -> str:
    letter = chr(ord("a") + number)

    def change(match: re.Match[str]) -> str:
        return f"{match[0]}{letter}" if zlib.crc32(f"{number}{match[0]}".encode()) % 2 else match[0]

    return _LONG_WORD.sub(change, text)


def digest(data: Path) -> str:
    """Of every file's name and bytes."""
    whole = hashlib.sha256()
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(data)} {sha256_file(path)}\n".encode())
    return whole.hexdigest()


def text_bytes(data: Path) -> int:
    return (data / "samples.txt").stat().st_size


def cells(name: str, num_bytes: int, taken: Measurement, again: str) -> tuple[str, ...]:
    return (name, f"{num_bytes / 1e6:.1f}", f"{taken.seconds:.1f}", again, f"{taken.peak_bytes / 1e6:,.0f}")


if __name__ == "__main__":
    main()
