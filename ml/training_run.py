"""A training from beginning to end: `fai train`, and the same from Python.

    from ml.config_file import Choices
    from ml.training_run import train

    outcome = train(
        "data",
        out="run",
        choices=Choices(preset="tiny", settings={"max_steps": 200}),
        on_step=lambda progress: print(progress.step, progress.loss),
    )

With devices above 1, a script that calls `train` must do so under `if __name__ == "__main__":`, for each process loads
it again.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from ml.bad_input import BadInput
from ml.config import TrainConfig
from ml.config_file import Choices, build_config, read_choices
from ml.dataset import Dataset, open_dataset, require_current
from ml.distributed import check_devices, run_ranks
from ml.files import OutputExists, remove_partials, replacing, sha256_file
from ml.hardware import detect
from ml.interrupts import stop_wish
from ml.locks import writing_in
from ml.run import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    PICTURE_FILE,
    TOKENIZER_FILE,
    RunInvalid,
    read_config,
    write_config,
)
from ml.tracking import require
from ml.train_state import newest_checkpoint, saving
from ml.training_job import Job, Observer, Outcome, Plan, Progress, Searching, Stopping
from ml.training_loop import needs_search, run_loop, with_micro_batch

Existing = Literal["refuse", "resume", "replace"]
"""What becomes of a run that stands in the folder already."""
DEFAULTS = Choices()
Event = Searching | Plan | Stopping
RUN_FOLDERS = (CHECKPOINTS_FOLDER, BEST_FOLDER, "tensorboard", "wandb")


class TrainingRefused(BadInput):
    """A dataset that the model cannot be trained on, or a run that is not what would be resumed."""

    page: ClassVar[str] = "training"


def _ignore(_event: Any) -> None:
    """What happens with an event that nobody watches."""


def train(
    data: Path | str,
    *,
    out: Path | str,
    choices: Choices = DEFAULTS,
    existing: Existing = "refuse",
    devices: int = 1,
    trackers: Iterable[str] = (),
    on_step: Callable[[Progress], Any] = _ignore,
    on_event: Callable[[Event], Any] = _ignore,
) -> Outcome:
    """Train a model on the dataset in `data`, and leave the run in the folder `out`; see ml.run for what is in it.

    Ctrl+C ends it after the present step, saved, with the reason "interrupted"; existing="resume" then continues as if
    it had never stopped, bit for bit on the same machine with as many devices. A resumed run keeps its configuration;
    what `choices` name must be what it has.

    trackers: any of "picture", "tensorboard" and "wandb", which need the packages of fai[learn].
    on_step: called after every optimizer step.
    on_event: called with Searching where the micro-batch is looked for, with the Plan before the first step, and with
    Stopping when Ctrl+C was heard.

    Raises: BadInput, in all its kinds, before anything is written where it can be told before; on the way
    ml.divergence.Diverged, ml.train_state.SaveFailed, ml.training_loop.NotEnoughMemory, ml.distributed.RankDied.
    KeyboardInterrupt on a second Ctrl+C, with the checkpoints whole.
    """
    dataset, out, trackers = open_dataset(Path(data)), Path(out), tuple(trackers)
    require(trackers)
    config = (
        _resumed_config(out, dataset, choices) if existing == "resume" else _new_config(out, dataset, choices, existing)
    )
    job = Job(
        run=out,
        config=config,
        train_path=dataset.folder / dataset.record["train"]["file"],
        val_path=dataset.folder / dataset.record["val"]["file"],
        dtype=dataset.record["dtype"],
        devices=devices,
        trackers=trackers,
        is_resumed=existing == "resume",
        micro_batch=config.micro_batch,
    )
    _check_size(dataset, config)
    check_devices(job, detect())
    with writing_in(out), stop_wish(on_first=lambda: on_event(Stopping())) as wish:
        if existing != "resume":
            # Another training may have begun there since.
            _check_place(out, existing)
        if needs_search(job):
            on_event(Searching())
        if devices == 1:
            job = with_micro_batch(job)
        if job.is_resumed:
            remove_partials(out / BEST_FOLDER)
        else:
            _make_folder(job, dataset)
        if devices > 1:
            return run_ranks(job, on_plan=on_event, on_step=on_step, wish=wish)
        return run_loop(job, Observer(on_plan=on_event, on_step=on_step, wants_stop=wish.is_set))


def _new_config(out: Path, dataset: Dataset, choices: Choices, existing: Existing) -> TrainConfig:
    """Raises: DatasetInvalid, ChoiceInvalid, OutputExists."""
    require_current(dataset)
    config = build_config(choices, vocab_size=dataset.record["vocab_size"])
    _check_place(out, existing)
    return config


def _check_place(out: Path, existing: Existing) -> None:
    """Raises: OutputExists where something stands there that is not to be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputExists(f"{out} is a file: choose another --out for the run's folder.")
    is_run = (out / CONFIG_FILE).exists()
    if any(out.iterdir()) and not is_run:
        raise OutputExists(f"{out} holds other files and no run: choose another --out.")
    if is_run and existing == "refuse":
        raise OutputExists(f"{out} holds a run already: go on with it by --resume, or replace it by --force.")


def _resumed_config(out: Path, dataset: Dataset, choices: Choices) -> TrainConfig:
    """The run's own, of which the choices may not differ.

    Raises: RunInvalid, TrainingRefused, ChoiceInvalid, CheckpointInvalid.
    """
    config, record = read_config(out)
    newest_checkpoint(out)
    mine = _flat(config.to_dict())
    for name, chosen in read_choices(choices).items():
        if mine[name] != chosen.value:
            raise TrainingRefused(
                f"{out} is trained with {name} {mine[name]!r}, not {chosen.value!r} as {chosen.source} says: leave it "
                "out to resume, or train anew with another --out."
            )
    _check_same_dataset(out, record, dataset)
    return config


def _check_same_dataset(out: Path, record: dict[str, Any], dataset: Dataset) -> None:
    """Raises: TrainingRefused, RunInvalid."""
    again = f"resume with the dataset that it began with, or train anew with another --out than {out}"
    if record["tokenizer_sha256"] != dataset.record["tokenizer_sha256"]:
        raise TrainingRefused(f"{out} is trained with another tokenizer than {dataset.tokenizer_path}: {again}.")
    for part in ("train", "val"):
        if record[part]["sha256"] != dataset.record[part]["sha256"]:
            path = dataset.folder / dataset.record[part]["file"]
            raise TrainingRefused(f"{out} is trained on another {part}.bin than {path}: {again}.")
    copy = out / TOKENIZER_FILE
    if not copy.is_file() or sha256_file(copy) != record["tokenizer_sha256"]:
        raise RunInvalid(
            f"{copy} is not the tokenizer that the run is trained with: copy {dataset.tokenizer_path} there."
        )


def _check_size(dataset: Dataset, config: TrainConfig) -> None:
    """Raises: TrainingRefused."""
    needed = {"train": config.model.block_size + 1, "val": 2}
    for part, tokens in {"train": dataset.train, "val": dataset.val}.items():
        if len(tokens) < needed[part]:
            raise TrainingRefused(
                f"{dataset.folder / dataset.record[part]['file']} holds {len(tokens)} tokens, and training needs "
                f"{needed[part]}: add text and make the dataset anew with `fai dataset {dataset.folder} --force`, or "
                "lower model.block_size."
            )


def _make_folder(job: Job, dataset: Dataset) -> None:
    """The run's folder without a checkpoint, in place of the run that may be there."""
    with saving(job.run, advice="choose another --out"):
        job.run.mkdir(parents=True, exist_ok=True)
        _remove_run(job.run)
        write_config(job.run, config=job.config, data=dataset.record | {"folder": str(dataset.folder.resolve())})
        with replacing(job.run / TOKENIZER_FILE) as partial:
            shutil.copyfile(dataset.tokenizer_path, partial)


def _remove_run(run: Path) -> None:
    """Remove a run's own files; whatever else a person put beside them stays."""
    # config.json goes last: as long as it is there, the folder is known as a run that may be replaced.
    for name in (*RUN_FOLDERS, PICTURE_FILE, METRICS_FILE, TOKENIZER_FILE, CONFIG_FILE):
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat
