from pathlib import Path

import pytest

from fai.cli import main


def test_every_position_part_and_parameter_is_shown(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(run_folder), "[QUESTION] 위젯", "--top", "3"]) == 0
    shown = capsys.readouterr().out
    for word in ("[QUESTION]", "␣", "bits", "expected next", "layer 1 mlp", "last norm", "119,168", "100.0%"):
        assert word in shown
    assert "Gradients" not in shown


def test_columns_stand_under_each_other_beside_korean(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(run_folder), "번째 가나다"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if " bits " in line]
    assert any("번째" in row for row in rows)
    ends = {sum(2 if "가" <= letter <= "힣" else 1 for letter in row[: row.index(" bits ")]) for row in rows}
    assert len(ends) == 1


def test_gradients_come_on_request(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(run_folder), "위젯", "--gradients"]) == 0
    shown = capsys.readouterr().out
    assert "Gradients of the loss on TEXT" in shown
    assert "model.layers.1.mlp.down_proj.weight" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [([""], "TEXT is empty"), (["widget " * 100], "reads at most 95"), (["x", "--top", "0"], "top must lie between 1")],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    run_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["analyze", str(run_folder), *words]) == 2
    assert message in capsys.readouterr().err
