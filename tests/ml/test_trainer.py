import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import distributed

from ml.config import InnerConfig
from ml.model import GPT
from ml.trainer import Trainer, TrainerState, TrainingDiverged, is_out_of_memory, learning_rate_at
from tests.ml.make import make_config, make_inner, make_model


def make_batch(step: int = 0, num_rows: int = 8) -> NDArray[np.int64]:
    return np.random.default_rng(step).integers(300, size=(num_rows, 17))


def make_trainer(model: GPT | None = None, *, micro_batch: int = 8, **inner: float) -> Trainer:
    return Trainer(model or make_model(), inner=make_inner(**inner), precision="fp32", micro_batch=micro_batch)


def rates(inner: InnerConfig, *, num_steps: int = 100, start: float = 0.0, end: float = 1.0) -> list[float]:
    return [
        learning_rate_at(step, inner=inner, num_steps=num_steps, progress_start=start, progress_end=end)
        for step in range(num_steps)
    ]


def test_warm_up_is_linear_and_reaches_the_full_rate() -> None:
    inner = make_inner(learning_rate=1.0, warmup_steps=4, min_learning_rate_ratio=1.0)
    assert rates(inner, num_steps=6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rates(make_inner(learning_rate=1.0, warmup_steps=0), num_steps=1) == [1.0]


def test_the_cosine_falls_from_the_full_rate_to_the_least() -> None:
    whole = rates(make_inner(learning_rate=2.0, warmup_steps=0, min_learning_rate_ratio=0.1))
    assert whole[0] == 2.0
    assert whole[50] == pytest.approx(2.0 * 0.55)
    assert whole[-1] == pytest.approx(0.2, rel=0.01)
    assert whole == sorted(whole, reverse=True)


def test_wsd_is_constant_and_then_falls_in_a_straight_line_to_the_least() -> None:
    inner = make_inner(schedule="wsd", learning_rate=2.0, warmup_steps=0, min_learning_rate_ratio=0.1, decay_share=0.25)
    whole = rates(inner)
    assert whole[:76] == [2.0] * 76
    assert whole[75:] == pytest.approx([2.0 - 1.8 * step / 25 for step in range(25)])


def test_jobs_of_successive_rounds_continue_one_cosine() -> None:
    inner = make_inner(warmup_steps=0)
    halves = rates(inner, num_steps=50, end=0.5) + rates(inner, num_steps=50, start=0.5)
    assert halves == pytest.approx(rates(inner))


def test_beyond_the_plan_the_rate_stays_at_its_least() -> None:
    inner = make_inner(learning_rate=1.0, warmup_steps=0, min_learning_rate_ratio=0.1)
    assert rates(inner, num_steps=2, start=1.5, end=3.0) == pytest.approx([0.1, 0.1])


def test_steps_are_those_of_a_plain_loop() -> None:
    """AdamW, clipping and the cosine against the published formulas, written out. Source: arXiv 1711.05101, alg. 2."""
    inner = make_inner(learning_rate=3e-3, clip_norm=0.5, weight_decay=0.3, warmup_steps=2)
    trainer = Trainer(make_model(scale=5.0), inner=inner, precision="fp32", micro_batch=3)
    reference = make_model(scale=5.0)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in reference.named_parameters()}
    clipped = 0
    for step in range(8):
        rate = learning_rate_at(step, inner=inner, num_steps=8, progress_start=0.2, progress_end=0.7)
        batch = make_batch(step)
        loss = trainer.step(batch, learning_rate=rate)

        tokens = torch.from_numpy(batch)
        expected = reference.loss(tokens[:, :-1], tokens[:, 1:])
        reference.zero_grad()
        expected.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in reference.parameters()))
        clipped += norm > inner.clip_norm
        for name, parameter in reference.named_parameters():
            gradient = parameter.grad * min(1.0, inner.clip_norm / norm)
            first, second = moments[name]
            first.mul_(inner.beta1).add_(gradient * (1 - inner.beta1))
            second.mul_(inner.beta2).add_(gradient.square() * (1 - inner.beta2))
            corrected = first / (1 - inner.beta1 ** (step + 1))
            scale = (second / (1 - inner.beta2 ** (step + 1))).sqrt() + 1e-8
            decay = inner.weight_decay if parameter.dim() == 2 else 0.0
            parameter.data -= rate * (corrected / scale + decay * parameter.data)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert clipped > 0
    for name, parameter in trainer.model.named_parameters():
        # A hundredth of one step: the sums over a batch in another order change gradients in their last bits.
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=0, atol=3e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_pieces_of_a_batch_give_the_gradient_of_the_whole(micro_batch: int) -> None:
    whole, pieces = make_trainer(make_model(scale=5.0)), make_trainer(make_model(scale=5.0), micro_batch=micro_batch)
    assert pieces.step(make_batch(), learning_rate=0.0) == pytest.approx(
        whole.step(make_batch(), learning_rate=0.0), rel=1e-5
    )
    for (name, parameter), other in zip(whole.model.named_parameters(), pieces.model.parameters(), strict=True):
        assert parameter.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped_to_the_norm() -> None:
    trainer = make_trainer(make_model(scale=5.0), clip_norm=0.01)
    trainer.step(make_batch(), learning_rate=0.0)
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in trainer.model.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)


class SmallMemory(GPT):
    """A model on a device that holds `capacity` rows, and says so in its own way when there are more."""

    capacity = 2
    error: type[BaseException] = torch.OutOfMemoryError
    message = "CUDA out of memory"

    def loss(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        loss = super().loss(tokens_BT, targets_BT)
        if len(tokens_BT) > self.capacity:
            raise self.error(self.message)
        return loss


def make_small_memory(**changes: object) -> SmallMemory:
    model = SmallMemory(make_config())
    model.load_state_dict(make_model().state_dict())
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step() -> None:
    trainer, roomy = make_trainer(make_small_memory()), make_trainer()
    for step in range(3):
        loss = trainer.step(make_batch(step), learning_rate=1e-3)
        assert loss == pytest.approx(roomy.step(make_batch(step), learning_rate=1e-3), rel=1e-5)
    assert trainer.micro_batch == 2


@pytest.mark.parametrize("micro_batch", [1, 7])
def test_out_of_memory_with_a_single_row_is_raised(micro_batch: int) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        make_trainer(make_small_memory(capacity=0), micro_batch=micro_batch).step(make_batch(), learning_rate=1e-3)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.44 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised_on_every_device(error: BaseException, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory


def test_the_cpus_real_message_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_another_runtime_error_is_no_lack_of_memory() -> None:
    model = make_small_memory(error=RuntimeError, message="shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        make_trainer(model).step(make_batch(), learning_rate=1e-3)


def test_divergence_names_the_step_and_leaves_the_weights_alone() -> None:
    trainer = make_trainer()
    trainer.step(make_batch(), learning_rate=1e-3)
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = math.nan
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(TrainingDiverged, match="diverged at step 1") as error:
        trainer.step(make_batch(), learning_rate=1e-3)
    assert error.value.step == 1
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_bfloat16_stays_near_float32_and_keeps_the_weights_in_float32() -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(make_model(scale=3.0), inner=make_inner(), precision=precision, micro_batch=8)
        losses.append([trainer.step(make_batch(), learning_rate=1e-3) for _ in range(5)])
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_float16_stays_near_float32_and_keeps_the_weights_in_float32() -> None:
    trainers = [
        Trainer(make_model(scale=3.0), inner=make_inner(), precision=precision, micro_batch=3)
        for precision in ("fp32", "fp16")
    ]
    losses = [[trainer.step(make_batch(), learning_rate=1e-3) for _ in range(5)] for trainer in trainers]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.002)
    assert all(parameter.dtype == torch.float32 for parameter in trainers[1].model.parameters())


def scaled(trainer: Trainer, scale: float) -> Trainer:
    state = trainer.state()
    trainer.load_state(dataclasses.replace(state, scalars=state.scalars | {"loss_scale/scale": scale}))
    return trainer


def test_gradients_that_overflow_float16_only_lower_the_scale() -> None:
    trainer = scaled(Trainer(make_model(), inner=make_inner(), precision="fp16", micro_batch=8), 2.0**40)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert math.isfinite(trainer.step(make_batch(), learning_rate=1e-3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert trainer.state().scalars["loss_scale/scale"] == 2.0**39
    for _ in range(30):
        trainer.step(make_batch(), learning_rate=1e-3)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_float16_diverges_where_no_scale_helps() -> None:
    trainer = Trainer(make_model(), inner=make_inner(), precision="fp16", micro_batch=8)
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingDiverged):
        trainer.step(make_batch(), learning_rate=1e-3)


@pytest.mark.parametrize(("optimizer", "precision"), [("adamw", "fp32"), ("muon", "bf16"), ("adamw", "fp16")])
def test_a_resumed_trainer_goes_on_bit_for_bit(tmp_path: Path, optimizer: str, precision: str) -> None:
    def make(model: GPT) -> Trainer:
        return Trainer(model, inner=make_inner(optimizer=optimizer), precision=precision, micro_batch=3, seed=7)

    config = make_config(dropout=0.3)
    whole = make(make_model(config))
    for step in range(3):
        whole.step(make_batch(step), learning_rate=1e-3)
    save_file({**whole.model.state_dict(), **whole.state().tensors}, tmp_path / "state.safetensors")
    scalars = json.loads(json.dumps(whole.state().scalars))

    stored = load_file(tmp_path / "state.safetensors")
    resumed = make(make_model(config, seed=1))
    resumed.model.load_state_dict({name: stored.pop(name) for name in resumed.model.state_dict()})
    resumed.load_state(TrainerState(tensors=stored, scalars=scalars))
    torch.rand(1)  # Another program's use of the global generator.
    for step in range(3, 6):
        assert resumed.step(make_batch(step), learning_rate=1e-3) == whole.step(make_batch(step), learning_rate=1e-3)
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, whole.model.get_parameter(name)), name


def test_dropout_follows_from_seed_and_step() -> None:
    def first_losses(seed: int) -> list[float]:
        model = make_model(make_config(dropout=0.3), scale=5.0)
        trainer = Trainer(model, inner=make_inner(), precision="fp32", micro_batch=8, seed=seed)
        return [trainer.step(make_batch(), learning_rate=0.0) for _ in range(2)]

    assert first_losses(1) == first_losses(1)
    assert len({*first_losses(1), *first_losses(2)}) == 4


def _train_one_rank(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    trainer = make_trainer(micro_batch=3 - rank)
    losses = [trainer.step(make_batch(step)[rank::2], learning_rate=1e-3) for step in range(3)]
    save_file(trainer.model.state_dict(), folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(losses))
    distributed.destroy_process_group()


def test_two_ranks_train_as_one_with_the_rows_of_both(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_one_rank, args=(tmp_path,), nprocs=2)
    alone = make_trainer()
    losses = [alone.step(make_batch(step), learning_rate=1e-3) for step in range(3)]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for name, parameter in alone.model.named_parameters():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], parameter.detach(), rtol=0, atol=3e-5)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(losses, rel=1e-5)
