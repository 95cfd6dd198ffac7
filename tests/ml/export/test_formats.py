import json
from pathlib import Path

import pytest

from ml.export.folder import OutputTaken
from ml.export.formats import ExportInvalid, export
from ml.export.source import Source
from ml.files import sha256_file
from ml.run import Run


def test_an_export_says_what_it_wrote(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "D"
    exported = export(Source.of_run(run), format_name="hf", out=out)
    assert exported.sizes == {path.name: path.stat().st_size for path in out.iterdir()}
    assert f'from_pretrained("{out}")' in exported.snippet


def test_an_export_records_where_it_comes_from(run: Run, tmp_path: Path) -> None:
    out = export(Source.of_run(run), format_name="hf", out=tmp_path / "D", dtype="bf16").folder
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert record == {
        "format": "hf",
        "dtype": "bf16",
        "run": "my-run",
        "checkpoint": "best/model.safetensors",
        "checkpoint_sha256": sha256_file(run.checkpoint),
        "model": run.model.config.to_dict(),
    }


def test_a_second_export_needs_force(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "D"
    export(Source.of_run(run), format_name="hf", out=out)
    with pytest.raises(OutputTaken, match="--force"):
        export(Source.of_run(run), format_name="hf", out=out)
    export(Source.of_run(run), format_name="hf", out=out, dtype="fp16", force=True)
    assert "fp16" in (out / "README.md").read_text()


def test_a_dtype_that_the_format_cannot_hold_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExportInvalid, match="onnx cannot hold bf16: choose `--dtype fp32` or `--dtype fp16`"):
        export(Source.of_run(run), format_name="onnx", out=tmp_path / "D", dtype="bf16")
    assert not list(tmp_path.iterdir())
