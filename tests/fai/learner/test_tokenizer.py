from pathlib import Path

import pytest

from fai.cli import main
from tests.ml.make_data import make_corpus, make_jsonl, make_samples


def test_the_table_says_how_well_each_language_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(tmp_path, pattern="*[05]-*.md")
    assert main(["tokenizer", str(tmp_path), "--vocab-size", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Wrote {tmp_path}/tokenizer.json: 1,000 tokens."
    assert {"ko", "en"} >= {line.split()[0] for line in lines if line.strip().startswith(("ko", "en"))} != set()
    assert lines[-1] == f"Next: fai dataset {tmp_path}"


def test_before_prepare_the_command_that_comes_first_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"fai tokenizer: There is no {tmp_path}/samples: make it with `fai prepare RAW --out {tmp_path}`.\n"
        "More: docs/faq/data.md\n"
    )


def test_a_vocabulary_larger_than_the_data_can_give_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_samples(tmp_path)
    assert main(["tokenizer", str(tmp_path)]) == 2
    assert "a vocabulary of at most" in capsys.readouterr().err
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_tokenizer_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_samples(tmp_path)
    (tmp_path / "tokenizer.json").write_text("mine")
    assert main(["tokenizer", str(tmp_path), "--vocab-size", "262"]) == 2
    assert "tokenizer.json exists already: add --force" in capsys.readouterr().err
    assert (tmp_path / "tokenizer.json").read_text() == "mine"
    assert main(["tokenizer", str(tmp_path), "--vocab-size", "262", "--force"]) == 0


def test_bad_lines_of_jsonl_are_told_by_number_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_jsonl(tmp_path / "x.jsonl", [{"text": "one"}, {"text": "two"}, *["bad"] * 12])
    assert main(["tokenizer", str(tmp_path), "--vocab-size", "262", "--jsonl", str(path)]) == 0
    error = capsys.readouterr().err
    assert f"{path}, line 3: no JSON" in error
    assert error.count("skipped.") == 10
    assert "Lines skipped: 12.\n" in error
