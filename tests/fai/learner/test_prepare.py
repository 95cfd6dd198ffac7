from pathlib import Path

import pytest

from fai.learner.command import EXIT_BAD_INPUT, run_command

TEXT = "---\ntitle: 위젯\n---\n\nA widget is a <b>part</b> of the screen.\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw" / "사이트").mkdir(parents=True)
    (tmp_path / "raw" / "사이트" / "a.md").write_text(TEXT, encoding="utf-8")
    return tmp_path / "raw"


def test_what_was_done_is_shown(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("prepare", [str(raw), "--out", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr()
    assert "사이트" in printed.out
    assert "front-matter" in printed.out
    assert f"Wrote 1 documents into {tmp_path / 'data'}" in printed.out
    assert printed.err == "Cleaning ...\n"


def test_a_second_run_needs_force(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(raw), "--out", str(tmp_path / "data")]
    run_command("prepare", arguments)
    assert run_command("prepare", arguments) == EXIT_BAD_INPUT
    assert "--force" in capsys.readouterr().err
    assert run_command("prepare", [*arguments, "--force"]) == 0
