from pathlib import Path

import pytest

from fai.cli import main
from ml.dataset import open_dataset
from tests.ml.make_data import copy_data, make_data, make_jsonl, make_samples


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("whole"))


def test_a_dataset_is_made_and_counted(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = copy_data(whole, tmp_path / "data")
    assert main(["dataset", str(data), "--force"]) == 0
    out = capsys.readouterr().out
    opened = open_dataset(data)
    assert f"Wrote {data}/dataset.json: tokens of uint16.\n" in out
    assert f"{len(opened.train):,}" in out
    assert f"{len(opened.val):,}" in out
    assert f"Next: fai train {data} " in out


def test_jsonl_alone_makes_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_jsonl(tmp_path / "x.jsonl", [{"text": "one"}, "bad", {"text": "two"}])
    data = tmp_path / "data"
    data.mkdir()
    assert main(["tokenizer", str(data), "--vocab-size", "262", "--jsonl", str(path)]) == 0
    assert main(["dataset", str(data), "--jsonl", str(path)]) == 0
    assert f"{path}, line 2: no JSON" in capsys.readouterr().err
    assert len(open_dataset(data).train) > 0


def test_before_the_tokenizer_the_command_that_comes_first_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_samples(tmp_path)
    assert main(["dataset", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"fai dataset: There is no {tmp_path}/tokenizer.json: make it with `fai tokenizer {tmp_path}`.\n"
        "More: docs/faq/tokenizer.md\n"
    )


def test_a_dataset_that_is_there_is_kept(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", str(whole)]) == 2
    assert "dataset.json exists already: add --force" in capsys.readouterr().err


def test_a_file_that_is_no_jsonl_is_named(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Notes\n")
    assert main(["dataset", str(copy_data(whole, tmp_path / "d")), "--force", "--jsonl", str(path)]) == 2
    assert f"{path} holds no document" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", r"train.bin holds"),
        ("other tokenizer", r"train.bin was made with another tokenizer"),
        ("half-written", r"train.bin is half-written"),
    ],
)
def test_training_on_a_dataset_that_is_not_whole_names_the_file_and_the_command(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, message: str
) -> None:
    data = copy_data(whole, tmp_path / "data")
    if damage == "truncated":
        (data / "train.bin").write_bytes((data / "train.bin").read_bytes()[:-2])
    elif damage == "other tokenizer":
        main(["tokenizer", str(data), "--vocab-size", "400", "--force"])
    else:
        (data / "dataset.json").unlink()
    capsys.readouterr()
    assert main(["train", str(data), "--preset", "tiny", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{data}/{message}" in error
    assert f"`fai dataset {data} --force`" in error
    assert error.endswith("More: docs/faq/data.md\n")
