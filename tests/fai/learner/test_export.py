import json
from pathlib import Path

import pytest

from fai.cli import main
from ml.files import sha256_file
from ml.run import Run
from tests.ml.export.make import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("export") / "my-run")


def test_export_prints_what_was_written_and_how_to_load_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "D"
    assert main(["export", str(run.folder), "--format", "hf", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for path in out.iterdir():
        assert f"{path.stat().st_size:,} bytes  {path.name}\n" in printed
    assert f'AutoTokenizer.from_pretrained("{out}")' in printed


def test_export_takes_the_last_checkpoint_when_asked(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "D"
    assert main(["export", str(run.folder), "--format", "hf", "--out", str(out), "--checkpoint", "last"]) == 0
    last = run.folder / "checkpoints/000000012/model.safetensors"
    assert json.loads((out / "export.json").read_text())["checkpoint_sha256"] == sha256_file(last)


def test_a_second_export_is_refused_without_force(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(run.folder), "--format", "hf", "--out", str(tmp_path / "D")]
    assert main(command) == 0
    assert main(command) == 2
    assert "`--force`" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_a_missing_run_names_the_command_that_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none"), "--format", "gguf", "--out", str(tmp_path / "D")]) == 2
    assert "`fai train" in capsys.readouterr().err
    assert not (tmp_path / "D").exists()


def test_a_half_written_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = make_run(tmp_path / "run")
    broken.checkpoint.write_bytes(broken.checkpoint.read_bytes()[:-100])
    assert main(["export", str(tmp_path / "run"), "--format", "hf", "--out", str(tmp_path / "D")]) == 2
    assert str(broken.checkpoint) in capsys.readouterr().err
    assert not (tmp_path / "D").exists()
