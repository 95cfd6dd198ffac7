import json
from pathlib import Path

import pytest

from fai.cli import main


def test_the_figures_are_shown_and_written(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.speed.BANDWIDTH_BYTES", 2**20)
    out = tmp_path / "speed.json"
    words = ["bench", str(run_folder), "--device", "cpu", "--seconds", "0", "--prompt-tokens", "8", "--new-tokens", "4"]
    assert main([*words, "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    for word in ("prefill", "first token", "decode, 1 text", "decode, 8 texts", "of the bandwidth", "GB/s"):
        assert word in shown
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert (figures["prompt_tokens"], figures["new_tokens"], figures["batch_rows"]) == (8, 4, 8)
    assert main([*words, "--json", str(out)]) == 2


def test_tokens_that_do_not_fit_are_bad_input(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(run_folder), "--new-tokens", "500"]) == 2
    assert "at most 96 together" in capsys.readouterr().err
