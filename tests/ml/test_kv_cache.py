import pytest
import torch

from ml.kv_cache import CacheFull, KVCache
from tests.ml.make import make_config, make_model

CONFIG = make_config(block_size=24)


def make_cache(num_slots: int = 4) -> KVCache:
    return KVCache(CONFIG, num_slots=num_slots)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(CONFIG.vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))


# float32 sums in another order: about 100 additions of values up to 10, each good to 2**-24, and logits up to 10.
TOLERANCE = 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("slots", [[0, 1, 2], [3, 0, 2], [2, 1, 0]])
def test_rows_of_different_lengths_get_the_logits_of_the_whole_text(tokens: torch.Tensor, slots: list[int]) -> None:
    """Prefill of single rows, then decoding steps for all, in neighbouring and in scattered slots."""
    model = make_model(CONFIG, scale=10.0).eval()
    whole_BTV = model(tokens)
    assert whole_BTV.std() > 1
    cache, lengths = make_cache(), [5, 9, 1]
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        prefilled = model(tokens[row : row + 1, :length], cache=cache, slots=[slot])
        torch.testing.assert_close(prefilled[0], whole_BTV[row, :length], rtol=0, atol=TOLERANCE)
    for step in range(15):
        places = [length + step for length in lengths]
        step_B1 = tokens[torch.arange(3), places][:, None]
        logits_B1V = model(step_B1, cache=cache, slots=slots)
        torch.testing.assert_close(logits_B1V[:, 0], whole_BTV[torch.arange(3), places], rtol=0, atol=TOLERANCE)
    assert [cache.lengths[slot] for slot in slots] == [20, 24, 16]


@torch.inference_mode()
def test_a_long_prompt_may_be_prefilled_in_pieces(tokens: torch.Tensor) -> None:
    model = make_model(CONFIG, scale=10.0).eval()
    cache = make_cache(3)
    pieces = [model(tokens[:, start : start + 8], cache=cache) for start in (0, 8, 16)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_a_freed_slot_shows_nothing_of_its_last_text(tokens: torch.Tensor) -> None:
    model = make_model(CONFIG, scale=10.0).eval()
    cache = make_cache(2)
    model(tokens[:2], cache=cache)
    cache.clear(1)
    model(tokens[2:, :7], cache=cache, slots=[1])
    logits_BTV = model(tokens[2:, 7:8], cache=cache, slots=[1])
    torch.testing.assert_close(logits_BTV[0, 0], model(tokens[2:])[0, 7], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_what_lies_beyond_a_rows_length_cannot_reach_it(tokens: torch.Tensor) -> None:
    model = make_model(CONFIG, scale=10.0).eval()
    cache = make_cache(2)
    model(tokens[:1, :20], cache=cache, slots=[0])
    model(tokens[1:2, :4], cache=cache, slots=[1])
    cache.keys[:, 1, :, 4:] = 100.0
    cache.values[:, 1, :, 4:] = 100.0
    logits_BTV = model(tokens[:2, 20:21], cache=cache)
    alone_BTV = model(torch.cat((tokens[1:2, :4], tokens[1:2, 20:21]), dim=1))
    torch.testing.assert_close(logits_BTV[1, 0], alone_BTV[0, -1], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_half_precision_storage_stays_close(tokens: torch.Tensor) -> None:
    model = make_model(CONFIG, scale=3.0).eval()
    cache = KVCache(CONFIG, num_slots=3, dtype=torch.bfloat16)
    model(tokens[:, :23], cache=cache)
    logits_BTV, exact_BTV = model(tokens[:, 23:], cache=cache), model(tokens)
    assert logits_BTV.dtype == torch.float32
    # bfloat16 has 8 bits of precision: 2**-8 of the logits' spread, over a few layers.
    assert (logits_BTV[:, 0] - exact_BTV[:, -1]).abs().max() < exact_BTV.std() * 0.1


@torch.inference_mode()
def test_a_text_beyond_the_block_size_is_refused_and_changes_nothing(tokens: torch.Tensor) -> None:
    model = make_model(CONFIG).eval()
    cache = make_cache(2)
    model(tokens[:1], cache=cache, slots=[1])
    before = cache.keys.clone()
    with pytest.raises(CacheFull, match="25 tokens do not fit in a block_size of 24"):
        model(tokens[:2, :1], cache=cache)
    assert cache.lengths == [0, 24]
    assert torch.equal(cache.keys, before)


def test_a_slot_cannot_hold_two_rows() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        make_cache().rows([1, 1], num_new=1)
