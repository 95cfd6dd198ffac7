"""A binary dataset: train.bin, val.bin and dataset.json, made from samples and opened for training.

dataset.json is written last, so that a folder without it holds no whole dataset.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from ml import tokenizer as tokenizers
from ml.bad_input import BadInput
from ml.data import ShardInvalid, Tokens, dtype_for, encode_each, little_endian, open_shard
from ml.files import FileUnwritable, require_free, sha256_file, writing
from ml.locks import writing_in
from ml.samples import FOLDER, REPORT_FILE, Sample, SkippedLine, Track, find_samples, read_all, untracked

FORMAT = 1
RECORD_FILE = "dataset.json"
TRAIN_FILE = "train.bin"
VAL_FILE = "val.bin"


class DatasetInvalid(BadInput):
    """A folder that holds no dataset, or not the whole of one, or one of another tokenizer."""

    page: ClassVar[str] = "data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The validation documents of one site in one language: val[start:stop]."""

    site: str
    language: str
    start: int
    stop: int
    bytes: int
    """UTF-8 of their text."""
    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A dataset on the disk."""

    folder: Path
    record: dict[str, Any]
    """What dataset.json says."""
    train: Tokens
    val: Tokens
    groups: list[Group]
    """In the order of val, which they cover."""

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / tokenizers.FILE_NAME


def open_dataset(folder: Path) -> Dataset:
    """The dataset that `fai dataset` made, its tokens as memory maps.

    Every file is hashed: 20 MB take 20 ms, and what is trained on is then what the record says.

    Raises: DatasetInvalid, ml.tokenizer.TokenizerInvalid.
    """
    mend = f"make it anew with `fai dataset {folder} --force`"
    record = _read_record(folder, mend)
    tokenizer = folder / tokenizers.FILE_NAME
    tokenizers.load(tokenizer)
    if sha256_file(tokenizer) != record["tokenizer_sha256"]:
        raise DatasetInvalid(f"{folder / TRAIN_FILE} was made with another tokenizer than {tokenizer}: {mend}.")
    try:
        train, val = (_open_part(folder, record[part], record["dtype"], mend) for part in ("train", "val"))
        groups = [Group(**group) for group in record["val"]["groups"]]
        bounds = [0, *(group.stop for group in groups)]
        if [group.start for group in groups] != bounds[:-1] or bounds[-1] != len(val):
            raise DatasetInvalid(f"{folder / RECORD_FILE} has groups that do not cover {VAL_FILE}: {mend}.")
        return Dataset(folder=folder, record=record, train=train, val=val, groups=groups)
    except (KeyError, TypeError, ShardInvalid) as error:
        raise DatasetInvalid(f"{folder / RECORD_FILE} is damaged ({error!r}): {mend}.") from error


def require_current(dataset: Dataset) -> None:
    """Raises: DatasetInvalid where `fai prepare` made other samples since."""
    report = dataset.folder / REPORT_FILE
    made_from = dataset.record.get("report_sha256")
    if made_from is not None and report.is_file() and sha256_file(report) != made_from:
        raise DatasetInvalid(
            f"{dataset.folder / RECORD_FILE} is older than {dataset.folder / FOLDER}, which `fai prepare` made anew: "
            f"run `fai tokenizer {dataset.folder} --force`, then `fai dataset {dataset.folder} --force`."
        )


def _read_record(folder: Path, mend: str) -> dict[str, Any]:
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / TRAIN_FILE).exists():
            raise DatasetInvalid(f"{folder / TRAIN_FILE} is half-written, without {path}: {mend}.") from None
        raise DatasetInvalid(f"There is no dataset {path}: make it with `fai dataset {folder}`.") from None
    except (OSError, ValueError) as error:
        raise DatasetInvalid(f"{path} cannot be read ({error}): {mend}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or "tokenizer_sha256" not in record:
        raise DatasetInvalid(f"{path} is of another format than {FORMAT}: {mend}.")
    return record


def _open_part(folder: Path, part: dict[str, Any], dtype: str, mend: str) -> Tokens:
    path = folder / part["file"]
    if not path.is_file():
        raise DatasetInvalid(f"There is no {path}, which {RECORD_FILE} names: {mend}.")
    size_bytes, wanted_bytes = path.stat().st_size, part["tokens"] * np.dtype(dtype).itemsize
    if size_bytes != wanted_bytes:
        raise DatasetInvalid(f"{path} holds {size_bytes:,} bytes, not the {wanted_bytes:,} of {RECORD_FILE}: {mend}.")
    if sha256_file(path) != part["sha256"]:
        raise DatasetInvalid(f"{path} holds other tokens than {RECORD_FILE} says: {mend}.")
    return open_shard(path, dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A dataset that was just written."""

    record: dict[str, Any]
    skipped: list[SkippedLine]
    is_tokenizer_older: bool
    """Than the samples, to which it may fit less well."""


def make_dataset(folder: Path, *, jsonl: Sequence[Path] = (), force: bool = False, track: Track = untracked) -> Made:
    """Encode folder/samples and the documents of the JSONL files with the folder's tokenizer.

    The same documents and tokenizer give the same bytes. Neither the text nor the tokens are held in memory as a whole.

    Raises: OutputExists, SamplesInvalid, ml.tokenizer.TokenizerInvalid, ml.locks.FolderBusy, ml.locks.FolderUnusable,
        ml.files.FileUnwritable.
    """
    path = folder / RECORD_FILE
    require_free(path, force=force)
    with writing_in(folder):
        return _make(folder, jsonl, track)


def _make(folder: Path, jsonl: Sequence[Path], track: Track) -> Made:
    path, report, tokenizer_path = folder / RECORD_FILE, folder / REPORT_FILE, folder / tokenizers.FILE_NAME
    tokenizer = tokenizers.load(tokenizer_path)
    samples = find_samples(folder, jsonl=jsonl)
    # A dataset that is being replaced is no longer whole.
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileUnwritable(f"{path} cannot be replaced ({error.strerror}): remove it.") from error
    train = _write_part(folder / TRAIN_FILE, samples.training, tokenizer, track)
    val = _write_part(folder / VAL_FILE, samples.validation, tokenizer, track)
    record = {
        "format": FORMAT,
        "dtype": dtype_for(tokenizer.get_vocab_size()),
        "vocab_size": tokenizer.get_vocab_size(),
        "tokenizer_sha256": sha256_file(tokenizer_path),
        **({"report_sha256": sha256_file(report)} if report.is_file() else {}),
        "train": train.record,
        "val": val.record | {"groups": _groups(samples.validation, val.tokens)},
    }
    with writing(path) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    is_older = report.is_file() and tokenizer_path.stat().st_mtime < report.stat().st_mtime
    return Made(record=record, skipped=samples.skipped, is_tokenizer_older=is_older)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A file of tokens that was just written."""

    record: dict[str, Any]
    tokens: list[int]
    """Of each document."""


def _write_part(path: Path, samples: Sequence[Sample], tokenizer: Tokenizer, track: Track) -> _Part:
    digest = hashlib.sha256()
    tokens = []
    documents = read_all(track(samples, f"Writing {path.name}"))
    with writing(path) as partial, partial.open("wb") as file:
        for encoded in encode_each(documents, tokenizer=tokenizer):
            data = little_endian(encoded).tobytes()
            digest.update(data)
            file.write(data)
            tokens.append(len(encoded))
    num_bytes = sum(sample.num_bytes for sample in samples)
    return _Part(
        record={
            "file": path.name,
            "tokens": sum(tokens),
            "documents": len(samples),
            "bytes": num_bytes,
            "sha256": digest.hexdigest(),
        },
        tokens=tokens,
    )


def _groups(samples: Sequence[Sample], tokens: Sequence[int]) -> list[dict[str, Any]]:
    groups = []
    stop = 0
    pairs = zip(samples, tokens, strict=True)
    for (site, language), members in itertools.groupby(pairs, key=lambda pair: (pair[0].site, pair[0].language)):
        documents = list(members)
        start, stop = stop, stop + sum(count for _, count in documents)
        num_bytes = sum(sample.num_bytes for sample, _ in documents)
        group = Group(site=site, language=language, start=start, stop=stop, bytes=num_bytes, documents=len(documents))
        groups.append(dataclasses.asdict(group))
    return groups
