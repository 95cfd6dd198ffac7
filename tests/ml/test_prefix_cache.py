import torch

from ml.prefix_cache import MIN_PREFIX_TOKENS, PrefixCache

TEXT = list(range(40))


def make_taken(num_tokens: int) -> torch.Tensor:
    return torch.zeros(1, 2, 1, num_tokens, 4)


def test_the_longest_common_beginning_is_found() -> None:
    cache = PrefixCache()
    cache.keep(TEXT[:20], make_taken(20))
    cache.keep([*TEXT[:12], *[99] * 20], make_taken(32))
    length, taken = cache.find([*TEXT[:15], 7])
    assert length == 15
    assert taken is not None
    assert taken.shape[3] == 20


def test_short_beginnings_are_not_worth_it() -> None:
    cache = PrefixCache()
    cache.keep(TEXT, make_taken(40))
    assert cache.find([*TEXT[: MIN_PREFIX_TOKENS - 1], 99]) == (0, None)
    assert not cache.is_worth_keeping(TEXT[: MIN_PREFIX_TOKENS - 1])
    assert not cache.is_worth_keeping(TEXT[:30])
    assert cache.is_worth_keeping([*TEXT, 40])


def test_a_text_takes_the_place_of_its_own_beginning() -> None:
    cache = PrefixCache()
    cache.keep(TEXT[:20], make_taken(20))
    cache.keep(TEXT, make_taken(40))
    assert len(cache) == 1
    assert cache.num_bytes == make_taken(40).nbytes


def test_what_was_used_longest_ago_makes_room() -> None:
    texts = [[number] * 10 for number in range(3)]
    cache = PrefixCache(max_bytes=2 * make_taken(10).nbytes)
    for text in texts[:2]:
        cache.keep(text, make_taken(10))
    cache.find(texts[0])
    cache.keep(texts[2], make_taken(10))
    assert [cache.find(text)[0] for text in texts] == [10, 0, 10]
    assert cache.num_bytes <= 2 * make_taken(10).nbytes


def test_a_text_larger_than_the_bound_is_not_kept() -> None:
    cache = PrefixCache(max_bytes=10)
    cache.keep(TEXT, make_taken(40))
    assert len(cache) == 0
