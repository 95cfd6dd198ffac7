"""What happens inside a model while it reads a text: predictions, activations, gradients.

Shape suffixes as in ml.model. The text stands after END_OF_TEXT, so that its first token is predicted too.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ml.bad_input import BadInput
from ml.generation import encode_prompt
from ml.model import GPT, Block
from ml.tokenizer import end_of_text, token_bytes


class TextInvalid(BadInput):
    """A text that the model cannot read whole."""

    page = "generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A token that may come next."""

    token: int
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """One token of the text, and what the model expects after it."""

    token: int
    probability: float | None
    """What the model gave this token before it saw it; None for END_OF_TEXT at the beginning."""
    candidates: tuple[Candidate, ...]
    """For the token that follows, likeliest first."""

    @property
    def surprise_bits(self) -> float | None:
        """-log2 of the probability: 0 for what was certain."""
        if self.probability is None:
            return None
        return -math.log2(self.probability) if self.probability > 0 else math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """What one part of the model puts out."""

    part: str
    shape: tuple[int, ...]
    mean: float
    std: float
    norm: float
    """Mean over positions of the vector's length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSize:
    """Weights of one part of the model."""

    part: str
    parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientStats:
    """The gradient of the text's mean loss for one tensor."""

    tensor: str
    shape: tuple[int, ...]
    norm: float
    largest: float
    """Absolute value."""
    share_of_zeros: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """A model's reading of a text."""

    positions: tuple[Position, ...]
    activations: tuple[Activation, ...]
    sizes: tuple[PartSize, ...]
    gradients: tuple[GradientStats, ...]
    """Empty where nobody asked for them."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        bits = [position.surprise_bits for position in self.positions if position.surprise_bits is not None]
        return math.fsum(bits) * math.log(2) / len(bits)


def read_text(model: GPT, tokenizer: Tokenizer, text: str) -> list[int]:
    """END_OF_TEXT and the tokens of the text.

    Raises: TextInvalid where there is nothing to read or more than the context holds; ml.generation.PromptInvalid.
    """
    tokens = encode_prompt(tokenizer, text, block_size=model.config.block_size)
    if not tokens:
        raise TextInvalid("TEXT is empty: give the model something to read")
    block_size = model.config.block_size
    if len(tokens) >= block_size:
        raise TextInvalid(
            f"TEXT has {len(tokens)} tokens and the model reads at most {block_size - 1} here: shorten it by "
            f"{len(tokens) - block_size + 1} tokens or more"
        )
    return [end_of_text(tokenizer), *tokens]


def analyze(model: GPT, tokens: Sequence[int], *, top: int = 5, gradients: bool = False) -> Analysis:
    """The model's reading of END_OF_TEXT and a text.

    Raises: TextInvalid where `top` is no number of candidates.
    """
    if not 1 <= top <= model.config.vocab_size:
        raise TextInvalid(f"top must lie between 1 and the vocabulary's {model.config.vocab_size}, not be {top}")
    model.eval()
    logits_TV, activations = _activations(model, tokens)
    return Analysis(
        positions=_positions(logits_TV, tokens, top=top),
        activations=activations,
        sizes=_sizes(model),
        gradients=_gradients(model, tokens) if gradients else (),
    )


def _positions(logits_TV: Tensor, tokens: Sequence[int], *, top: int) -> tuple[Position, ...]:
    probabilities_TV = torch.softmax(logits_TV.double().cpu(), dim=-1)
    given = [None, *(float(probabilities_TV[place, token]) for place, token in enumerate(tokens[1:]))]
    best = probabilities_TV.topk(top, dim=-1)
    return tuple(
        Position(
            token=token,
            probability=probability,
            candidates=tuple(
                Candidate(token=next_token, probability=value)
                for next_token, value in zip(row_tokens, row_values, strict=True)
            ),
        )
        for token, probability, row_tokens, row_values in zip(
            tokens, given, best.indices.tolist(), best.values.tolist(), strict=True
        )
    )


@torch.inference_mode()
def _activations(model: GPT, tokens: Sequence[int]) -> tuple[Tensor, tuple[Activation, ...]]:
    """Logits, and what every part put out on the way to them.

    Shapes: logits (T, V).
    """
    found: list[Activation] = []
    parts: dict[str, nn.Module] = {"embedding": model.model.embed_tokens}
    for layer, block in enumerate(layers(model)):
        parts |= {
            f"layer {layer} attention": block.self_attn,
            f"layer {layer} mlp": block.mlp,
            f"layer {layer} residual": block,
        }
    parts["last norm"] = model.model.norm
    with contextlib.ExitStack() as hooks:
        for part, module in parts.items():
            hooks.enter_context(hooked(module, partial(_note, found, part)))
        logits_BTV = model(torch.tensor([tokens], device=model.device))
    found.append(_describe("logits", logits_BTV))
    return logits_BTV[0], tuple(found)


def _note(found: list[Activation], part: str, output: Tensor) -> None:
    found.append(_describe(part, output))


def _describe(part: str, output: Tensor) -> Activation:
    x = output.double().cpu() if output.device.type == "mps" else output.double()
    return Activation(
        part=part,
        shape=tuple(output.shape),
        mean=x.mean().item(),
        std=x.std(correction=0).item(),
        norm=x.norm(dim=-1).mean().item(),
    )


def _sizes(model: GPT) -> tuple[PartSize, ...]:
    """Every weight once: the embedding is the output layer too."""
    parts: list[tuple[str, nn.Module]] = [("embedding, also the output", model.model.embed_tokens)]
    for layer, block in enumerate(layers(model)):
        parts += [(f"layer {layer} attention", block.self_attn), (f"layer {layer} mlp", block.mlp)]
        parts += [(f"layer {layer} norms", nn.ModuleList([block.input_layernorm, block.post_attention_layernorm]))]
    parts += [("last norm", model.model.norm)]
    return tuple(
        PartSize(part=part, parameters=sum(parameter.numel() for parameter in module.parameters()))
        for part, module in parts
    )


def _gradients(model: GPT, tokens: Sequence[int]) -> tuple[GradientStats, ...]:
    batch = torch.tensor([tokens], device=model.device)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(model.loss(batch[:, :-1], batch[:, 1:]), parameters)
    return tuple(
        GradientStats(
            tensor=name,
            shape=tuple(gradient.shape),
            norm=gradient.norm().item(),
            largest=gradient.abs().max().item(),
            share_of_zeros=(gradient == 0).float().mean().item(),
        )
        for name, gradient in zip(names, gradients, strict=True)
    )


def token_label(tokenizer: Tokenizer, token: int) -> str:
    r"""A token as a reader can see it: ␣ is a space, ⏎ a line's end, and \xec a byte of a character that is cut."""
    text = token_bytes(tokenizer, token).decode("utf-8", errors="backslashreplace")
    return "".join(_VISIBLE.get(letter, letter if letter.isprintable() else repr(letter)[1:-1]) for letter in text)


_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}


@contextlib.contextmanager
def hooked(module: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Let `take` see what the module puts out."""

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        take(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def layers(model: GPT) -> list[Block]:
    """The model's blocks, first to last."""
    return [block for block in model.model.layers if isinstance(block, Block)]
