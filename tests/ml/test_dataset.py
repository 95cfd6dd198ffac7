import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml import dataset, tokenizer
from ml.data import encode_documents
from ml.dataset import DatasetInvalid, make_dataset, open_dataset, require_current
from ml.files import FileUnwritable, OutputExists, sha256_file
from ml.preparation import prepare
from ml.samples import find_samples, read_all
from ml.tokenizer import TokenizerInvalid
from ml.vocabulary import make_tokenizer
from tests.ml.make_data import VOCAB_SIZE, copy_data, make_data, make_jsonl, make_samples


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return copy_data(whole, tmp_path / "data")


def change_record(data: Path, change: dict[str, Any]) -> None:
    path = data / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")


def test_the_dataset_is_the_documents_in_tokens(whole: Path) -> None:
    opened = open_dataset(whole)
    found = find_samples(whole)
    encoder = tokenizer.load(opened.tokenizer_path)
    assert np.array_equal(opened.train, encode_documents(read_all(found.training), tokenizer=encoder))
    assert np.array_equal(opened.val, encode_documents(read_all(found.validation), tokenizer=encoder))
    assert opened.folder == whole


def test_the_record_counts_what_is_there(whole: Path) -> None:
    opened = open_dataset(whole)
    found = find_samples(whole)
    assert opened.record | {"train": ..., "val": ...} == {
        "format": 1,
        "dtype": "uint16",
        "vocab_size": VOCAB_SIZE,
        "tokenizer_sha256": sha256_file(whole / "tokenizer.json"),
        "train": ...,
        "val": ...,
    }
    assert opened.record["train"] == {
        "file": "train.bin",
        "tokens": len(opened.train),
        "documents": len(found.training),
        "bytes": sum(len(text.encode()) for text in read_all(found.training)),
        "sha256": sha256_file(whole / "train.bin"),
    }


def test_the_groups_cover_the_validation_tokens_site_by_site(whole: Path) -> None:
    opened = open_dataset(whole)
    encoder = tokenizer.load(opened.tokenizer_path)
    found = find_samples(whole).validation
    assert [(group.site, group.language) for group in opened.groups] == sorted(
        {(sample.site, sample.language) for sample in found}
    )
    assert [(left.stop, right.start) for left, right in itertools.pairwise(opened.groups)] == [
        (right.start, right.start) for right in opened.groups[1:]
    ]
    assert (opened.groups[0].start, opened.groups[-1].stop) == (0, len(opened.val))
    for group in opened.groups:
        members = [sample for sample in found if (sample.site, sample.language) == (group.site, group.language)]
        expected = encode_documents(read_all(members), tokenizer=encoder)
        assert np.array_equal(opened.val[group.start : group.stop], expected)
        assert (group.documents, group.bytes) == (len(members), sum(sample.num_bytes for sample in members))


def test_no_document_is_on_both_sides(tmp_path: Path) -> None:
    make_samples(tmp_path, {f"a/{number}.txt": f"text {number % 40} of words" for number in range(200)})
    make_tokenizer(tmp_path, vocab_size=270)
    record = make_dataset(tmp_path).record
    assert (record["train"]["documents"], record["val"]["documents"]) == (190, 10)
    found = find_samples(tmp_path)
    assert not {sample.rank for sample in found.training} & {sample.rank for sample in found.validation}


def test_a_second_run_gives_the_same_bytes(data: Path, whole: Path) -> None:
    make_dataset(data, force=True)
    for name in ("train.bin", "val.bin", "dataset.json"):
        assert (data / name).read_bytes() == (whole / name).read_bytes()


def test_jsonl_goes_into_the_dataset_and_its_bad_lines_are_told(data: Path, tmp_path: Path) -> None:
    lines = [{"text": f"문서 {number}", "site": "위키", "language": "ko"} for number in range(200)]
    path = make_jsonl(tmp_path / "위키.jsonl", [*lines, "no document"])
    made = make_dataset(data, jsonl=[path], force=True)
    assert [skipped.line for skipped in made.skipped] == [201]
    assert "위키" in {group.site for group in open_dataset(data).groups}


def test_a_vocabulary_beyond_16_bits_is_written_in_32(tmp_path: Path) -> None:
    make_samples(tmp_path)
    make_tokenizer(tmp_path, vocab_size=262)
    text = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    text["model"]["vocab"] |= {f"x{number}": number for number in range(262, 70_000)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(text), encoding="utf-8")
    make_dataset(tmp_path)
    assert open_dataset(tmp_path).train.dtype == np.uint32


def test_a_dataset_is_replaced_only_by_force(data: Path) -> None:
    with pytest.raises(OutputExists, match=r"dataset\.json exists already: add --force"):
        make_dataset(data)


def test_a_tokenizer_comes_first(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerInvalid, match=rf"no {tmp_path}/tokenizer\.json: make it with `fai tokenizer {tmp_path}`"
    ):
        make_dataset(make_samples(tmp_path))


def test_an_interrupted_replacement_leaves_no_dataset_that_could_be_taken_for_whole(data: Path) -> None:
    (data / "samples/ko").rename(data / "samples/ko-2")
    next((data / "samples").rglob("*.txt")).write_text("changed", encoding="utf-8")

    def interrupt(samples: object, title: str) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(data, force=True, track=interrupt)
    with pytest.raises(DatasetInvalid, match=r"train\.bin is half-written, without .*--force`"):
        open_dataset(data)
    assert not list(data.glob(".*"))


def test_a_folder_without_a_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetInvalid, match=rf"no dataset {tmp_path}/dataset\.json: make it with `fai dataset {tmp_path}`"
    ):
        open_dataset(tmp_path)


def test_a_tokenizer_that_changed_afterwards_is_noticed(data: Path) -> None:
    make_tokenizer(data, vocab_size=VOCAB_SIZE + 1, force=True)
    with pytest.raises(
        DatasetInvalid, match=r"another tokenizer than .*tokenizer\.json: make it anew with `fai dataset"
    ):
        open_dataset(data)


def test_a_tokenizer_that_is_gone_is_noticed(data: Path) -> None:
    (data / "tokenizer.json").unlink()
    with pytest.raises(TokenizerInvalid, match="fai tokenizer"):
        open_dataset(data)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
@pytest.mark.parametrize("num_bytes", [0, 1, 2])
def test_a_truncated_file_is_named(data: Path, name: str, num_bytes: int) -> None:
    content = (data / name).read_bytes()
    (data / name).write_bytes(content[: len(content) - num_bytes] if num_bytes else b"")
    with pytest.raises(
        DatasetInvalid, match=rf"{name} holds [\d,]+ bytes, not the [\d,]+ .*`fai dataset {data} --force`"
    ):
        open_dataset(data)


def test_a_file_that_is_gone_is_named(data: Path) -> None:
    (data / "val.bin").unlink()
    with pytest.raises(DatasetInvalid, match=r"There is no .*val\.bin"):
        open_dataset(data)


def test_one_changed_token_is_noticed(data: Path) -> None:
    content = bytearray((data / "train.bin").read_bytes())
    content[1000] ^= 1
    (data / "train.bin").write_bytes(content)
    with pytest.raises(DatasetInvalid, match=r"train\.bin holds other tokens"):
        open_dataset(data)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', "\x00", '{"format": 1}'])
def test_a_record_that_is_none_is_named(data: Path, content: str) -> None:
    (data / "dataset.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetInvalid, match=r"dataset\.json (cannot be read|is of another format).*--force`"):
        open_dataset(data)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "int64"}, {"dtype": "nonsense"}, {"dtype": 3}, {"train": {}}, {"train": None}, {"val": {"groups": 1}}],
)
def test_a_record_with_a_wrong_part_is_named(data: Path, change: dict[str, Any]) -> None:
    change_record(data, change)
    with pytest.raises(DatasetInvalid, match=r"--force`"):
        open_dataset(data)


def test_groups_that_do_not_cover_the_tokens_are_damage(data: Path) -> None:
    record = json.loads((data / dataset.RECORD_FILE).read_text(encoding="utf-8"))
    record["val"]["groups"].pop()
    change_record(data, record)
    with pytest.raises(DatasetInvalid, match="groups"):
        open_dataset(data)


def test_a_dataset_is_current_until_the_samples_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name, text in {"a.md": "One document.", "b.md": "Another document."}.items():
        (tmp_path / "raw" / name).write_text(text)
    data = tmp_path / "data"
    prepare([tmp_path / "raw"], out=data, num_processes=1)
    make_tokenizer(data, vocab_size=262)
    assert not make_dataset(data).is_tokenizer_older
    require_current(open_dataset(data))
    (tmp_path / "raw" / "a.md").write_text("One Document.")
    prepare([tmp_path / "raw"], out=data, force=True, num_processes=1)
    with pytest.raises(DatasetInvalid, match=r"dataset\.json is older than .*`fai tokenizer .* --force`, then"):
        require_current(open_dataset(data))
    os.utime(data / "tokenizer.json", (0, 0))
    assert make_dataset(data, force=True).is_tokenizer_older
    require_current(open_dataset(data))


def test_a_folder_in_the_place_of_a_file_is_one_sentence(data: Path) -> None:
    (data / "dataset.json").unlink()
    (data / "dataset.json").mkdir()
    with pytest.raises(FileUnwritable, match=r"dataset\.json cannot be replaced \(Is a directory\): remove it"):
        make_dataset(data, force=True)
