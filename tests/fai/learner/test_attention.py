from pathlib import Path

import pytest

from fai.cli import main


def test_the_picture_is_drawn_and_kept(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.png"
    words = ["attention", str(run_folder), "7번째 위젯", "--out", str(out), "--layer", "1", "--head", "0"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", [], "TEXT is empty"),
        ("widget " * 100, [], "reads at most 95"),
        ("x", ["--layer", "2"], "--layer 2 does not exist: the model has layers 0 to 1"),
        ("x", ["--head", "4"], "--head 4 does not exist: the model has heads 0 to 3"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str], message: str
) -> None:
    out = tmp_path / "f.png"
    assert main(["attention", str(run_folder), text, "--out", str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
