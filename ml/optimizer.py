"""The inner optimizer's parts: which parameters AdamW moves and which Muon, and their moments by parameter name."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ml.config import InnerConfig
from ml.model import GPT


def make_optimizers(model: GPT, inner: InnerConfig) -> list[Optimizer]:
    """AdamW for everything; or Muon for the layers' matrices and AdamW for the rest.

    Muon's steps are scaled to AdamW's usual size, so that one learning rate and one weight decay serve both.
    Source: Muon is Scalable for LLM Training (arXiv 2502.16982), section 2.2.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    scales = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    if inner.optimizer == "adamw":
        return [_adamw(matrices, scales, inner)]
    hidden = [parameter for parameter in model.model.layers.parameters() if parameter.dim() == 2]
    muon = torch.optim.Muon(
        hidden, lr=inner.learning_rate, weight_decay=inner.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, _adamw([model.model.embed_tokens.weight], scales, inner)]


def _adamw(matrices: Sequence[Tensor], scales: Sequence[Tensor], inner: InnerConfig) -> Optimizer:
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": inner.weight_decay}, {"params": scales, "weight_decay": 0.0}],
        lr=inner.learning_rate,
        betas=(inner.beta1, inner.beta2),
        fused=True,
    )


def read_moments(model: GPT, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Everything the optimizers remember, as `<parameter>/<moment>`; empty before the first step."""
    moments = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for kind, tensor in optimizer.state.get(parameter, {}).items():
                moments[f"{name}/{kind}"] = tensor
    return moments


def write_moments(moments: dict[str, Tensor], *, model: GPT, optimizers: Sequence[Optimizer]) -> None:
    """Take up what `read_moments` gave, in the parameters' device and shape.

    Raises: KeyError where a parameter is unknown, ValueError where a shape is another.
    """
    parameters = dict(model.named_parameters())
    owners = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for optimizer in optimizers:
        optimizer.state.clear()
    for name, moment in moments.items():
        parameter_name, _, kind = name.rpartition("/")
        parameter = parameters[parameter_name]
        if moment.dim() and moment.shape != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(moment.shape)}, its parameter {tuple(parameter.shape)}")
        owners[id(parameter)].state[parameter][kind] = moment.detach().to(parameter.device, copy=True)
