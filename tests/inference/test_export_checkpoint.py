"""manage.py export_checkpoint: the files of `fai export`, from storage; what is wrong is said in a sentence."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from fai.cli import main
from ml.run import Run
from tests.inference.make import make_served_experiment, make_stored_checkpoint
from tests.ml.export.make import make_run
from tests.s3 import storages
from tests.training.make import NOW, make_checkpoint, make_experiment
from training import blobs
from training.models import Blob, Checkpoint, Experiment

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "study@3")


def export(model: str, out: Path, **options: Any) -> None:
    call_command("export_checkpoint", model, **{"format": "gguf", "out": out, **options})


def publish(run: Run, folder: Path, *, number: int) -> Checkpoint:
    """The run's model as a round's checkpoint of the experiment "study"."""

    def put(path: Path, kind: Blob.Kind) -> Blob:
        return blobs.put(path=shutil.copyfile(path, folder / path.name), kind=kind, now=NOW)

    tokenizer = put(run.folder / "tokenizer.json", Blob.Kind.TOKENIZER)
    experiment = make_experiment(slug="study", model=run.model.config.to_dict(), tokenizer=tokenizer)
    blob = put(run.checkpoint, Blob.Kind.CHECKPOINT)
    return make_checkpoint(experiment=experiment, number=number, blob=blob, validation_loss=1.5)


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "export.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("format_name", "dtype"), [("gguf", "fp32"), ("gguf", "fp16"), ("hf", "bf16")])
def test_the_files_are_those_of_fai_export_of_the_same_weights(
    run: Run, tmp_path: Path, format_name: str, dtype: str
) -> None:
    publish(run, tmp_path, number=3)
    export("study", tmp_path / "ours", format=format_name, dtype=dtype)
    command = ["export", str(run.folder), "--format", format_name, "--dtype", dtype, "--out", str(tmp_path / "theirs")]
    assert main(command) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == set(files)
    for name in set(files) - {"README.md", "export.json"}:
        assert (tmp_path / "ours" / name).read_bytes() == files[name], name


def test_what_was_written_says_which_round_it_is(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = publish(run, tmp_path, number=3)
    out = tmp_path / "out"
    export("study", out)
    assert record_of(out) == {
        "format": "gguf",
        "dtype": "fp32",
        "experiment": "study",
        "round": 3,
        "checkpoint_sha256": checkpoint.blob_id,
        "model": run.model.config.to_dict(),
    }
    readme = (out / "README.md").read_text(encoding="utf-8")
    for part in ("# study@3\n", "| Rounds | 3 |", "1.5000 nats per token"):
        assert part in readme
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: study@3 as gguf, fp32\n")
    assert f"{(out / 'model.gguf').stat().st_size:,} bytes  model.gguf\n" in printed


def test_the_newest_published_round_is_taken_unless_one_is_given(tmp_path: Path) -> None:
    experiment = make_served_experiment(tmp_path)
    make_stored_checkpoint(tmp_path, experiment=experiment, number=1)
    hidden = make_stored_checkpoint(tmp_path, experiment=experiment, number=2)
    experiment.checkpoints.filter(pk=hidden.pk).update(published_at=None)
    for model, number in {"study": 1, "study@0": 0, "study@1": 1}.items():
        export(model, tmp_path / model)
        assert record_of(tmp_path / model)["round"] == number
    with pytest.raises(CommandError, match="Round 2 of 'study' has no published checkpoint"):
        export("study@2", tmp_path / "out")


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("nobody", {}, "There is no experiment 'nobody'"),
        ("nobody@0", {}, "There is no experiment 'nobody'"),
        ("study@7", {}, "Round 7 of 'study' has no published checkpoint"),
        ("study@first", {}, "Round first of 'study' has no published checkpoint"),
        ("young", {}, "'young' has published no checkpoint yet"),
        ("draft", {}, "'draft' has published no checkpoint yet"),
        ("plain", {}, "The experiment 'plain' has no tokenizer"),
        ("study", {"format": "onnx", "dtype": "bf16"}, "onnx cannot hold bf16: choose `--dtype fp32`"),
        ("study", {"format": "zip"}, "invalid choice: 'zip'"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path: Path, model: str, options: dict[str, Any], sentence: str) -> None:
    make_served_experiment(tmp_path)
    make_experiment(slug="young")
    make_experiment(slug="draft", state=Experiment.State.DRAFT)
    make_checkpoint(experiment=make_experiment(slug="plain", tokenizer=None))
    with pytest.raises(CommandError, match=sentence):
        export(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [Blob.Kind.TOKENIZER, Blob.Kind.CHECKPOINT])
@pytest.mark.parametrize("damage", ["other bytes", None])
def test_a_file_that_storage_has_damaged_or_lost_is_named(
    storage: Path, tmp_path: Path, kind: str, damage: str | None
) -> None:
    make_served_experiment(tmp_path)
    blob = Blob.objects.get(kind=kind)
    if damage is None:
        (storage / blob.path).unlink()
    else:
        (storage / blob.path).write_text(damage)
    with pytest.raises(CommandError, match=f"study@0 cannot be read: .*{blob.sha256}"):
        export("study", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_store_that_is_away_is_named(tmp_path: Path, settings: Any) -> None:
    make_served_experiment(tmp_path)
    settings.STATE_DIR = tmp_path
    settings.STORAGES = storages(settings)
    with pytest.raises(CommandError, match="study@0 cannot be read: storage does not answer"):
        export("study", tmp_path / "out")


def test_an_export_that_stands_there_is_replaced_by_force_alone(tmp_path: Path) -> None:
    experiment = make_served_experiment(tmp_path)
    export("study", tmp_path / "out")
    make_stored_checkpoint(tmp_path, experiment=experiment, number=1)
    with pytest.raises(CommandError, match="--force"):
        export("study", tmp_path / "out")
    assert record_of(tmp_path / "out")["round"] == 0
    export("study", tmp_path / "out", force=True)
    assert record_of(tmp_path / "out")["round"] == 1


def test_a_folder_with_other_files_is_never_written_into(tmp_path: Path) -> None:
    make_served_experiment(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_text("")
    with pytest.raises(CommandError, match="photos holds other files than an export"):
        export("study", tmp_path / "photos", force=True)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["1.jpg"]


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_served_experiment(tmp_path)
    monkeypatch.delitem(sys.modules, "ml.export.gguf", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CommandError, match="The package gguf is missing"):
        export("study", tmp_path / "out")
    assert not (tmp_path / "out").exists()
