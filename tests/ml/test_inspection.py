import math

import pytest
import torch

from ml.inspection import TextInvalid, analyze, read_text, token_label
from ml.run import Run
from ml.tokenizer import END_OF_TEXT
from tests.ml.make import make_config, make_model, make_tokenizer

TOKENIZER = make_tokenizer()
MODEL = make_model(make_config(block_size=32), scale=5.0).eval()
TEXT = "final 하나"
TOKENS = read_text(MODEL, TOKENIZER, TEXT)


@torch.inference_mode()
def probabilities() -> torch.Tensor:
    return torch.softmax(MODEL(torch.tensor([TOKENS]))[0].double(), dim=-1)


def test_the_text_stands_at_the_beginning_of_a_document() -> None:
    assert [TOKENIZER.token_to_id(END_OF_TEXT), *TOKENIZER.encode(TEXT).ids] == TOKENS


def test_each_token_has_the_probability_that_the_model_gave_it_before() -> None:
    positions = analyze(MODEL, TOKENS).positions
    assert positions[0].probability is None
    assert positions[0].surprise_bits is None
    for place in range(1, len(TOKENS)):
        expected = float(probabilities()[place - 1, TOKENS[place]])
        assert positions[place].probability == pytest.approx(expected)
        assert positions[place].surprise_bits == pytest.approx(-math.log2(expected))


def test_the_candidates_are_the_likeliest_in_order() -> None:
    analysis = analyze(MODEL, TOKENS, top=3)
    best = probabilities().topk(3, dim=-1)
    for place, position in enumerate(analysis.positions):
        assert [candidate.token for candidate in position.candidates] == best.indices[place].tolist()
        assert [candidate.probability for candidate in position.candidates] == pytest.approx(
            best.values[place].tolist()
        )


def test_the_loss_is_the_models_own() -> None:
    batch = torch.tensor([TOKENS])
    assert analyze(MODEL, TOKENS).loss == pytest.approx(MODEL.loss(batch[:, :-1], batch[:, 1:]).item(), rel=1e-5)


def test_what_the_parts_put_out_is_in_the_order_of_the_model() -> None:
    activations = {each.part: each for each in analyze(MODEL, TOKENS).activations}
    assert list(activations)[:5] == [
        "embedding",
        "layer 0 attention",
        "layer 0 mlp",
        "layer 0 residual",
        "layer 1 attention",
    ]
    assert list(activations)[-2:] == ["last norm", "logits"]
    assert activations["logits"].shape == (1, len(TOKENS), 300)
    embedded = MODEL.model.embed_tokens(torch.tensor([TOKENS])).double()
    found = activations["embedding"]
    assert found.shape == tuple(embedded.shape)
    assert (found.mean, found.std) == pytest.approx((embedded.mean().item(), embedded.std(correction=0).item()))
    assert found.norm == pytest.approx(embedded.norm(dim=-1).mean().item())


def test_the_parts_hold_every_parameter_once() -> None:
    assert sum(size.parameters for size in analyze(MODEL, TOKENS).sizes) == MODEL.config.num_parameters


def test_gradients_are_those_of_the_loss_and_leave_nothing_behind() -> None:
    found = {each.tensor: each for each in analyze(MODEL, TOKENS, gradients=True).gradients}
    assert all(parameter.grad is None for parameter in MODEL.parameters())
    batch = torch.tensor([TOKENS])
    MODEL.loss(batch[:, :-1], batch[:, 1:]).backward()
    assert found.keys() == dict(MODEL.named_parameters()).keys()
    for name, parameter in MODEL.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        assert found[name].norm == pytest.approx(gradient.norm().item(), rel=1e-4)
        assert found[name].largest == pytest.approx(gradient.abs().max().item(), rel=1e-4)
        assert found[name].share_of_zeros == pytest.approx((gradient == 0).float().mean().item())
    MODEL.zero_grad(set_to_none=True)
    assert analyze(MODEL, TOKENS).gradients == ()


def test_nothing_watches_the_model_afterwards(trained: Run) -> None:
    trained.analyze("위젯")
    trained.attention("위젯")
    assert not any(module._forward_hooks for module in trained.model.modules())


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("가" * 40, r"has \d+ tokens and the model reads at most 31"), ("\ud800", "UTF-8")],
)
def test_a_text_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(MODEL, TOKENIZER, text)


@pytest.mark.parametrize("top", [0, 301])
def test_a_number_of_candidates_that_cannot_be_is_refused(top: int) -> None:
    with pytest.raises(TextInvalid, match=f"not be {top}"):
        analyze(MODEL, TOKENS, top=top)


def test_a_label_shows_what_cannot_be_seen_and_the_bytes_of_a_cut_letter() -> None:
    def labels(text: str) -> list[str]:
        return [token_label(TOKENIZER, token) for token in TOKENIZER.encode(text).ids]

    assert labels("[ANSWER]") == ["[ANSWER]"]
    assert "".join(labels(" a\n\tb\x1b")) == "␣a⏎⇥b\\x1b"
    assert labels("뷁") == ["\\xeb", "\\xb7", "\\x81"]
