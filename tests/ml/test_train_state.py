from pathlib import Path

import pytest
import torch

from ml.checkpoint import CheckpointInvalid
from ml.train_state import (
    TrainState,
    load_optimizer,
    load_weights,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from ml.trainer import Trainer
from tests.ml.make import make_inner, make_model
from tests.ml.test_trainer import make_batch


def make_trained(optimizer: str = "adamw") -> Trainer:
    trainer = Trainer(make_model(), inner=make_inner(optimizer=optimizer), precision="fp32", micro_batch=3)
    for step in range(2):
        trainer.step(make_batch(step), learning_rate=1e-2)
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_gives_back_weights_moments_and_state_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    trainer = make_trained(optimizer)
    state = TrainState(step=2, tokens=256, seed=7, seconds=1 / 3, precision="fp32", best_loss=0.1, best_step=1)
    folder = save_checkpoint(tmp_path, state=state, trainer=trainer)
    assert folder == newest_checkpoint(tmp_path)
    found = read_state(folder)
    assert found == state
    again = Trainer(load_weights(folder), inner=make_inner(optimizer=optimizer), precision="fp32", micro_batch=1)
    load_optimizer(folder, state=found, trainer=again)
    assert again.micro_batch == 3
    for name, tensor in trainer.state().tensors.items():
        assert torch.equal(tensor, again.state().tensors[name])
    assert trainer.step(make_batch(9), learning_rate=1e-2) == again.step(make_batch(9), learning_rate=1e-2)
    for left, right in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_newest_two_are_kept_and_the_same_step_is_not_written_twice(tmp_path: Path) -> None:
    trainer = make_trained()
    for step in (9, 10, 100):
        folder = save_checkpoint(tmp_path, state=TrainState(step=step), trainer=trainer)
    written = folder.stat().st_ino
    save_checkpoint(tmp_path, state=TrainState(step=100), trainer=trainer)
    assert folder.stat().st_ino == written
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["000000010", "000000100"]


def test_what_a_killed_process_was_writing_is_no_checkpoint(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, state=TrainState(step=1), trainer=make_trained())
    partial = tmp_path / ".000000002.0f.tmp"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == folder


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, state=TrainState(step=1), trainer=make_trained())
    wider = Trainer(
        make_model(make_model().config.replace(n_embd=64)), inner=make_inner(), precision="fp32", micro_batch=1
    )
    with pytest.raises(CheckpointInvalid, match=r"optimizer\.safetensors is damaged"):
        load_optimizer(folder, state=read_state(folder), trainer=wider)


def test_a_state_without_a_field_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, state=TrainState(step=1), trainer=make_trained())
    (folder / "state.json").write_text('{"step": 1}', encoding="utf-8")
    with pytest.raises(CheckpointInvalid, match=r"state.json is damaged \('tokens'\)"):
        read_state(folder)


def test_a_checkpoint_that_lost_its_state_is_written_anew(tmp_path: Path) -> None:
    trainer = make_trained()
    folder = save_checkpoint(tmp_path, state=TrainState(step=1), trainer=trainer)
    (folder / "state.json").unlink()
    assert newest_checkpoint(save_checkpoint(tmp_path, state=TrainState(step=1), trainer=trainer).parents[1]) == folder
