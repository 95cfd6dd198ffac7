import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml import hub_download
from ml.hub_download import download
from ml.sources import HubSource, SourceInvalid, SourceUnreachable
from tests.ml.make_sources import make_hub_dataset, make_hub_source

TEXTS = [f"문서 {number}" for number in range(100)]
ARTICLES = (
    " = One = \n",
    "\n",
    " = = History = = \n",
    "text one\n",
    " = Two = \n",
    "text two\n",
    "more\n",
    " = Three = \n",
)
START = "^ = [^=].* = $"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "PART_DOCUMENTS", 7)


def documents_in(folder: Path) -> list[str]:
    lines = [line for path in sorted(folder.glob("part-*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines]


def test_each_row_is_a_document_in_parts(tmp_path: Path) -> None:
    source = make_hub_source(make_hub_dataset(tmp_path / "hub", TEXTS))
    download(source, tmp_path / "out")
    assert documents_in(tmp_path / "out") == TEXTS
    assert len(list((tmp_path / "out").iterdir())) == 15
    first = (tmp_path / "out/part-00000.jsonl").read_text("utf-8").splitlines()[0]
    assert json.loads(first) == {"text": "문서 0", "site": "wiki", "language": "ko"}
    assert "문서" in first


def test_lines_are_joined_to_documents(tmp_path: Path) -> None:
    source = make_hub_source(make_hub_dataset(tmp_path / "hub", list(ARTICLES)), document_start=START)
    download(source, tmp_path / "out")
    assert documents_in(tmp_path / "out") == [
        " = One = \n\n = = History = = \ntext one",
        " = Two = \ntext two\nmore",
        " = Three = ",
    ]


@pytest.mark.parametrize("num_articles", [6, 7, 8])
def test_the_last_part_is_whole_whatever_its_size(tmp_path: Path, num_articles: int) -> None:
    rows = [row for number in range(num_articles) for row in (f" = {number} = \n", f"text {number}\n")]
    source = make_hub_source(make_hub_dataset(tmp_path / "hub", rows), document_start=START)
    download(source, tmp_path / "out")
    assert documents_in(tmp_path / "out") == [f" = {number} = \ntext {number}" for number in range(num_articles)]


@pytest.mark.parametrize("num_parts", [0, 1, 3])
@pytest.mark.parametrize("document_start", ["", START])
def test_an_interrupted_download_goes_on_where_it_was(tmp_path: Path, document_start: str, num_parts: int) -> None:
    rows = [row for number in range(40) for row in (f" = {number} = \n", f"text {number}\n")]
    source = make_hub_source(make_hub_dataset(tmp_path / "hub", rows), document_start=document_start)
    download(source, tmp_path / "whole")
    out = tmp_path / "out"
    with breaking_down_after(num_parts) as written, pytest.raises(SourceUnreachable, match="cable pulled"):
        download(source, out)
    assert written == list(range(num_parts))
    with breaking_down_after(100) as written:
        download(source, out)
    assert written[0] == num_parts
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


@contextlib.contextmanager
def breaking_down_after(num_parts: int) -> Iterator[list[int]]:
    """The network goes after so many parts were written; their numbers."""
    written: list[int] = []
    write_part = hub_download._write_part

    def write(source: HubSource, folder: Path, documents: list[str], number: int) -> None:
        if len(written) == num_parts:
            raise ConnectionError("cable pulled")
        write_part(source, folder, documents, number)
        written.append(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_download, "_write_part", write)
        yield written


def test_rows_without_text_are_told_with_the_columns_there_are(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"id": 1, "body": "x"}\n')
    with pytest.raises(SourceInvalid, match=r"wiki: .* has the columns id, body, none of them text"):
        download(make_hub_source(folder), tmp_path / "out")


def test_a_wrong_split_is_told(tmp_path: Path) -> None:
    folder = make_hub_dataset(tmp_path / "hub", TEXTS)
    with pytest.raises(SourceInvalid, match=r"wiki: .*validation.*"):
        download(make_hub_source(folder, split="validation"), tmp_path / "out")


def test_a_hub_out_of_reach_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on the port of `discard`: the connection is refused.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    source = make_hub_source(tmp_path, dataset="wikimedia/wikipedia", config="20231101.ko")
    with pytest.raises(
        SourceUnreachable, match=r"wiki could not be fetched from https://huggingface\.co/.* run the same command again"
    ):
        download(source, tmp_path / "out")


def test_a_folder_that_is_gone_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises((SourceUnreachable, SourceInvalid), match="wiki"):
        download(make_hub_source(tmp_path / "none"), tmp_path / "out")
