import pytest
import torch

from ml.model import GPT
from ml.optimizer import make_optimizers, read_moments, write_moments
from tests.ml.make import make_inner, make_model


def take_step(model: GPT, optimizers: list[torch.optim.Optimizer]) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_moved_by_one_optimizer_and_only_matrices_decay(optimizer: str) -> None:
    model = make_model()
    groups = [group for made in make_optimizers(model, make_inner(optimizer=optimizer)) for group in made.param_groups]
    moved = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(moved) == sorted(id(parameter) for parameter in model.parameters())
    for group in groups:
        decays = {parameter.dim() == 2 for parameter in group["params"]}
        assert decays == {group["weight_decay"] > 0}


def test_muon_moves_the_layers_matrices_and_adamw_the_rest() -> None:
    model = make_model()
    muon, adamw = make_optimizers(model, make_inner(optimizer="muon"))
    take_step(model, [muon, adamw])
    for name, parameter in model.named_parameters():
        owner = muon if "layers" in name and "norm" not in name else adamw
        assert parameter in owner.state, name


def test_muons_steps_are_as_large_as_adamws() -> None:
    """Source: arXiv 2502.16982, equation 4: a root mean square of 0.2, which is AdamW's on a long run."""
    model = make_model()
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    take_step(model, make_optimizers(model, make_inner(optimizer="muon", learning_rate=0.1, weight_decay=0.0)))
    step = model.model.layers[0].mlp.up_proj.weight.detach() - before
    assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.3)


def test_moments_of_another_shape_are_refused() -> None:
    model = make_model()
    optimizers = make_optimizers(model, make_inner())
    take_step(model, optimizers)
    moments = read_moments(model, optimizers)
    name = "model.norm.weight/exp_avg"
    with pytest.raises(ValueError, match=name):
        write_moments(moments | {name: torch.zeros(3)}, model=model, optimizers=optimizers)
    with pytest.raises(KeyError):
        write_moments({"nothing/exp_avg": torch.zeros(3)}, model=model, optimizers=optimizers)
