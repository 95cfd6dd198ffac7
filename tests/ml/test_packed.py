import pytest
import torch

from ml.kv_cache import KVCache
from ml.linears import make_linear
from ml.packed import PackedGPT, can_pack, pack
from tests.ml.make import make_config, make_model

pytestmark = pytest.mark.skipif(not can_pack(make_model()), reason="FBGEMM's half precision is for x86")

TOKENS = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(7, 64), (2, 5, 64)])
def test_a_packed_layer_is_the_layer_with_its_weight_in_half_precision(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 64, generator=generator), torch.randn(shape, generator=generator)
    y = make_linear(weight, weight_format="fp16_packed")(x)
    # Sums of 64 products in float32.
    torch.testing.assert_close(y, x @ weight.half().float().T, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_packed_model_predicts_the_same() -> None:
    model = make_model(scale=10.0).eval()
    packed = pack(model)
    assert isinstance(packed, PackedGPT)
    exact, found = model(TOKENS).log_softmax(-1), packed(TOKENS).log_softmax(-1)
    divergence = (exact.exp() * (exact - found)).sum(-1)
    assert exact.std() > 0.5
    assert divergence.max() < 1e-5
    assert not torch.equal(exact, found)


@torch.inference_mode()
def test_a_packed_model_generates_with_a_cache() -> None:
    packed = pack(make_model(scale=10.0)).eval()
    cache = KVCache(packed.config, num_slots=3)
    pieces = [packed(TOKENS[:, start : start + 4], cache=cache) for start in (0, 4, 8, 12)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), packed(TOKENS), rtol=0, atol=1e-4)
    last = packed.hidden(TOKENS)[:, -1]
    torch.testing.assert_close(packed.unembed(last), packed(TOKENS)[:, -1], rtol=0, atol=1e-5)


def test_packing_leaves_the_model_as_it_was() -> None:
    model = make_model(make_config(n_layer=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_on_another_device_is_returned_as_it_is() -> None:
    model = make_model().to("meta")
    assert pack(model) is model
