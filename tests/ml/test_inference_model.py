import pytest
import torch

from ml.config import PRESETS
from ml.inference_model import InferenceModel
from ml.inference_parity import MAX_DIVERGENCE, divergence, prepare
from ml.linears import formats_of
from ml.model import GPT, initial_model
from ml.slot_cache import Span
from tests.ml.make import make_config, make_model, make_tokens
from tests.ml.make_inference import make_inference, make_prompt, make_trained

CPU_FORMATS = formats_of(torch.device("cpu"))
TEXTS = torch.from_numpy(make_tokens(4 * 40, seed=3).astype("int64")).view(4, 40)
TOLERANCE = 1e-4
"""float32 sums in another order, of a few hundred values, and logits up to 20."""


def greedy(model: InferenceModel, prompt: list[int], *, num_tokens: int) -> list[int]:
    cache = model.make_cache(1)
    text = list(prompt)
    logits = model.prefill(torch.tensor(text), [Span(0, 0, len(text))], cache)
    for _ in range(num_tokens):
        text.append(int(logits[0].argmax()))
        last, place = torch.tensor(text[-1:]), torch.tensor([len(text) - 1])
        logits = model.decode(last, place, cache, length=len(text), is_ragged=False)
    return text[len(prompt) :]


def greedy_by_forward(model: GPT, prompt: list[int], *, num_tokens: int) -> list[int]:
    text = list(prompt)
    for _ in range(num_tokens):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


@torch.inference_mode()
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_a_trained_model_predicts_and_continues_as_its_forward_pass_does(n_kv_head: int) -> None:
    model = make_trained(n_kv_head=n_kv_head, block_size=256)
    exact = model(TEXTS).softmax(-1)
    assert exact.max() > 0.5
    prompt = make_prompt(20)
    expected = greedy_by_forward(model, prompt, num_tokens=200)
    for weight_format in {"fp32", CPU_FORMATS[0]} - {"bf16"}:
        made = InferenceModel(model, weight_format=weight_format)
        assert divergence(model, made, TEXTS) < 1e-5
        assert greedy(made, prompt, num_tokens=200) == expected


@torch.inference_mode()
@pytest.mark.parametrize("preset", ["tiny", "m4", "small", "default"])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_every_shape_has_the_forward_passes_logits(preset: str, is_grouped: bool) -> None:
    """Widths of the presets; two layers of them, and a smaller vocabulary, show what more would."""
    config = PRESETS[preset].replace(n_layer=2, vocab_size=300, block_size=64)
    config = config.replace(n_kv_head=config.n_head // 2 if is_grouped else config.n_head)
    model = initial_model(config, 0).eval()
    made = InferenceModel(model, weight_format="fp32")
    spans = [Span(slot, 0, 40) for slot in range(4)]
    logits = made.prefill(TEXTS.flatten(), spans, made.make_cache(4), wanted=slice(None))
    torch.testing.assert_close(logits.view(4, 40, -1), model(TEXTS), rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_gains_and_a_coarse_epsilon_are_folded_in() -> None:
    model = make_model(make_config(norm_eps=1e-2, block_size=64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(1 + torch.rand(parameter.shape, generator=generator))
    assert divergence(model, InferenceModel(model, weight_format="fp32"), TEXTS) < 1e-7


@torch.inference_mode()
@pytest.mark.parametrize("n_kv_head", [2, 4])
def test_rows_of_different_lengths_get_the_logits_of_the_whole_text(n_kv_head: int) -> None:
    model = make_trained(n_kv_head=n_kv_head, block_size=256)
    made = InferenceModel(model, weight_format="fp32")
    cache, lengths = made.make_cache(4), [5, 17, 1]
    tokens = torch.cat([TEXTS[row, :length] for row, length in enumerate(lengths)])
    made.prefill(tokens, [Span(row, 0, length) for row, length in enumerate(lengths)], cache)
    rows, whole = torch.arange(3), model(TEXTS[:3])
    for step in range(10):
        places = torch.tensor(lengths) + step
        logits = made.decode(TEXTS[rows, places], places, cache, length=18 + step, is_ragged=True)
        torch.testing.assert_close(logits, whole[rows, places], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_a_prompt_may_be_read_in_pieces_beside_others() -> None:
    model = make_trained()
    made = InferenceModel(model, weight_format="fp32")
    cache = made.make_cache(2)
    made.prefill(TEXTS[0, :7], [Span(1, 0, 7)], cache)
    both = torch.cat((TEXTS[0, 7:40], TEXTS[1, :9]))
    logits = made.prefill(both, [Span(1, 7, 33), Span(0, 0, 9)], cache, wanted=slice(None))
    torch.testing.assert_close(logits[:33], model(TEXTS[:1])[0, 7:], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(logits[33:], model(TEXTS[1:2, :9])[0], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("weight_format", ["bf16", "fp32"])
def test_the_fallbacks_stay_within_their_bounds(weight_format: str) -> None:
    found = divergence(make_trained(), make_inference(weight_format=weight_format), TEXTS)
    assert found < min(MAX_DIVERGENCE[weight_format], 1e-2)
    assert (found > 1e-9) == (weight_format == "bf16")


def test_the_fastest_format_of_the_machine_is_chosen() -> None:
    assert prepare(make_trained()).weight_format == CPU_FORMATS[0]


@pytest.mark.skipif(CPU_FORMATS[0] == "fp32", reason="this machine has no other format")
def test_weights_beyond_the_formats_range_are_served_exactly() -> None:
    model = make_model(make_config(block_size=64))
    with torch.no_grad():
        dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    assert prepare(model).weight_format == "fp32"


def test_making_it_ready_leaves_the_model_as_it_was() -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepare(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
