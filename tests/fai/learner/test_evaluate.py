import json
from pathlib import Path

import pytest

from fai.cli import main


def test_the_table_shows_languages_sites_and_the_whole(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run_folder)]) == 0
    shown = capsys.readouterr().out
    for word in ("perplexity", "bits per byte", "accuracy", " ko ", " en ", "가족.kr", "dart.dev", " all "):
        assert word in shown


def test_the_scores_are_written_as_json_once(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    words = ["evaluate", str(run_folder), "--json", str(out)]
    assert main(words) == 0
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert scores["checkpoint"].endswith("best/model.safetensors")
    assert scores["total"]["tokens"] == sum(site["tokens"] for site in scores["sites"].values())
    assert scores["total"]["bits_per_byte"] < 1
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force", "--checkpoint", "last"]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["total"]["perplexity"] > 10 * scores["total"]["perplexity"]


def test_json_on_the_output_stream_comes_alone(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(run_folder.parent / "DATA")
    assert main(["evaluate", str(run_folder), "--data", data, "--json", "-"]) == 0
    assert "가족.kr" in json.loads(capsys.readouterr().out)["sites"]


def test_what_cannot_be_evaluated_is_bad_input(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path / "RUN")]) == 2
    assert "fai train DATA --out" in capsys.readouterr().err
    assert main(["evaluate", str(run_folder), "--data", str(tmp_path)]) == 2
    assert f"fai dataset {tmp_path}" in capsys.readouterr().err
