import unicodedata
from pathlib import Path

import pytest

from ml.samples import Sample, SamplesInvalid, find_samples, read_all
from tests.ml.make_data import DOCUMENTS, make_jsonl, make_samples


def find_all(data: Path, *jsonl: Path) -> dict[str, Sample]:
    found = find_samples(data, jsonl=jsonl)
    return {sample.read(): sample for sample in found.training + found.validation}


def test_a_sample_knows_its_site_language_and_size(tmp_path: Path) -> None:
    found = find_all(make_samples(tmp_path))
    assert {text: (sample.site, sample.language) for text, sample in found.items()} == {
        DOCUMENTS["site-a/이름.md.txt"]: ("site-a", "ko"),
        DOCUMENTS["site-a/state.md.txt"]: ("site-a", "en"),
        DOCUMENTS["site-b/lib/main.dart.txt"]: ("site-b", "code"),
    }
    assert all(sample.num_bytes == len(text.encode()) for text, sample in found.items())


def test_documents_are_found_whole_and_blank_ones_left_out(tmp_path: Path) -> None:
    make_samples(
        tmp_path, {"a/1.txt": "one\r\n\ufeffone \n", "a/2.txt": " \n", "a/3.txt": "three", "a/4.md": "no sample"}
    )
    assert set(find_all(tmp_path)) == {"one\r\n\ufeffone \n", "three"}


def test_validation_is_a_twentieth_by_content_and_in_the_order_of_sites_and_languages(tmp_path: Path) -> None:
    make_samples(tmp_path, {f"site-{number % 3}/{number}.txt": f"document {number}" for number in range(200)})
    found = find_samples(tmp_path)
    assert (len(found.training), len(found.validation)) == (190, 10)
    assert [sample.site for sample in found.validation] == sorted(sample.site for sample in found.validation)
    assert max(sample.rank for sample in found.validation) < min(sample.rank for sample in found.training)


def test_neither_names_nor_order_decide_the_split(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(50)]
    one = make_samples(tmp_path / "one", {f"a/{number}.txt": text for number, text in enumerate(texts)})
    two = make_samples(tmp_path / "two", {f"b/{number}.txt": text for number, text in enumerate(reversed(texts))})
    assert list(read_all(find_samples(one).training)) == list(read_all(find_samples(two).training))


def test_jsonl_gives_documents_besides_the_samples(tmp_path: Path) -> None:
    lines = [{"text": "위키 문서예요", "site": "위키", "language": "ko"}, {"text": "of the file's name"}]
    found = find_all(make_samples(tmp_path), make_jsonl(tmp_path / "extra.jsonl", lines))
    assert len(found) == len(DOCUMENTS) + 2
    assert (found["위키 문서예요"].site, found["위키 문서예요"].language) == ("위키", "ko")
    assert (found["of the file's name"].site, found["of the file's name"].language) == ("extra", "en")


def test_a_folder_of_jsonl_needs_no_samples(tmp_path: Path) -> None:
    make_jsonl(tmp_path / "part-00000.jsonl", [{"text": "one"}])
    make_jsonl(tmp_path / "part-00001.jsonl", [{"text": "two"}])
    assert set(find_all(tmp_path / "data", tmp_path)) == {"one", "two"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON (nested too deep)"),
        ('"text"', 'no {"text": "..."}'),
        ('{"txt": "a"}', 'no {"text": "..."}'),
        ('{"text": 3}', 'no {"text": "..."}'),
        ('{"text": " \\n"}', "an empty text"),
    ],
)
def test_a_line_that_is_no_document_is_skipped_by_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = make_jsonl(tmp_path / "x.jsonl", [{"text": "one"}, "", line, {"text": "two"}])
    found = find_samples(tmp_path, jsonl=[path])
    assert len(found.training + found.validation) == 2
    assert [(skipped.file, skipped.line) for skipped in found.skipped] == [(path, 3)]
    assert found.skipped[0].reason.startswith(reason)


def test_bytes_that_are_no_utf8_cost_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('\ufeff{"text": "하나"}\n'.encode() + b'{"text": "\xff"}\n{"text": "two"}')
    assert set(find_all(tmp_path, path)) == {"하나", "two"}
    assert [skipped.line for skipped in find_samples(tmp_path, jsonl=[path]).skipped] == [2]


def test_text_of_jsonl_is_composed_and_holds_no_half_character_and_no_end_of_text(tmp_path: Path) -> None:
    lines = [{"text": unicodedata.normalize("NFD", "한글")}, '{"text": "a\\ud83d"}', {"text": "a<|endoftext|>b"}]
    found = find_all(tmp_path, make_jsonl(tmp_path / "x.jsonl", lines))
    assert set(found) == {"한글", "a\ufffd", "a<| endoftext |>b"}


def test_without_samples_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SamplesInvalid, match=rf"no {tmp_path}/samples: make it with `fai prepare RAW --out {tmp_path}`"
    ):
        find_samples(tmp_path)


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(SamplesInvalid, match=r"samples holds fewer than two different documents.*`fai prepare RAW"):
        find_samples(make_samples(tmp_path, {"a/1.txt": "one"}))


def test_a_sample_that_is_no_text_is_named(tmp_path: Path) -> None:
    make_samples(tmp_path)
    (tmp_path / "samples/site-a/bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SamplesInvalid, match=r"bad\.txt cannot be read"):
        find_samples(tmp_path)


@pytest.mark.parametrize("lines", [[], ["{", "{}"]])
def test_a_jsonl_file_without_a_document_is_refused(tmp_path: Path, lines: list[str]) -> None:
    path = make_jsonl(tmp_path / "x.jsonl", lines)
    with pytest.raises(SamplesInvalid, match=r"x\.jsonl holds no document"):
        find_samples(tmp_path, jsonl=[path])


def test_jsonl_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamplesInvalid, match=r"none\.jsonl cannot be read"):
        find_samples(tmp_path, jsonl=[tmp_path / "none.jsonl"])
    with pytest.raises(SamplesInvalid, match=r"holds no \.jsonl file"):
        find_samples(tmp_path, jsonl=[tmp_path])


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_a_sample_that_changes_between_two_readings_is_noticed(tmp_path: Path, change: str) -> None:
    found = find_samples(make_samples(tmp_path))
    file = found.training[0].file
    file.write_text("other") if change == "edit" else file.unlink()
    with pytest.raises(SamplesInvalid, match="changed while it was read"):
        list(read_all(found.training))
