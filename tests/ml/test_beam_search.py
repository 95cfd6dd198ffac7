import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from ml.beam_search import BeamParams, BeamsInvalid, search, search_tokens
from ml.generation import PromptInvalid
from ml.kv_cache import KVCache
from ml.model import GPT
from ml.sampling import SamplingParams
from tests.ml.make import make_config, make_model, make_tokenizer

TOKENIZER = make_tokenizer()
VOCAB_SIZE = 6
PROMPT = [3, 4, 5]
END = 0


def make_tiny_model(*, seed: int) -> GPT:
    """A vocabulary so small that every text can be tried."""
    return make_model(make_config(vocab_size=VOCAB_SIZE, block_size=16), seed=seed, scale=8.0).eval()


@dataclass(frozen=True, kw_only=True)
class Text:
    tokens: tuple[int, ...]
    log_probability: float


@torch.inference_mode()
def log_probability_of(model: GPT, tokens: tuple[int, ...]) -> float:
    logits = model(torch.tensor([[*PROMPT, *tokens]]))[0].double()
    rows = torch.log_softmax(logits, dim=-1)[len(PROMPT) - 1 : -1]
    return float(rows[torch.arange(len(tokens)), list(tokens)].sum())


def every_text(max_tokens: int) -> list[tuple[int, ...]]:
    others = range(1, VOCAB_SIZE)
    ended = [(*start, END) for n in range(max_tokens) for start in itertools.product(others, repeat=n)]
    return ended + list(itertools.product(others, repeat=max_tokens))


def plain_beam_search(model: GPT, params: BeamParams) -> Text:
    """The same search without a cache, from the whole text at every step."""
    alive, ended = [Text(tokens=(), log_probability=0.0)], []
    for _ in range(params.max_tokens):
        longer = [(*text.tokens, token) for text in alive for token in range(VOCAB_SIZE)]
        ranked = sorted((Text(tokens=each, log_probability=log_probability_of(model, each)) for each in longer),
                        key=lambda text: -text.log_probability)[: 2 * params.num_beams]  # fmt: skip
        ended += [text for text in ranked if text.tokens[-1] == END]
        alive = [text for text in ranked if text.tokens[-1] != END][: params.num_beams]
    return max(ended + alive, key=lambda text: text.log_probability / len(text.tokens) ** params.length_penalty)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_beams_for_every_text_it_finds_the_best_of_all_texts(seed: int, length_penalty: float) -> None:
    model = make_tiny_model(seed=seed)
    params = BeamParams(num_beams=VOCAB_SIZE**3, max_tokens=3, length_penalty=length_penalty)
    texts = {tokens: log_probability_of(model, tokens) / len(tokens) ** length_penalty for tokens in every_text(3)}
    found = search_tokens(model, TOKENIZER, PROMPT, params)
    assert found.tokens == max(texts, key=lambda tokens: texts[tokens])
    assert found.score(length_penalty) == pytest.approx(max(texts.values()), abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2, 3])
@pytest.mark.parametrize("seed", [4, 5])
def test_the_cache_follows_the_beams_as_they_change_places(seed: int, num_beams: int) -> None:
    model = make_tiny_model(seed=seed)
    params = BeamParams(num_beams=num_beams, max_tokens=9, length_penalty=1.0)
    expected = plain_beam_search(model, params)
    found = search_tokens(model, TOKENIZER, PROMPT, params)
    assert found.tokens == expected.tokens
    assert found.log_probability == pytest.approx(expected.log_probability, abs=1e-3)


def test_more_beams_find_a_likelier_text_than_greed_does() -> None:
    models = [make_tiny_model(seed=seed) for seed in range(8)]
    greedy, wide = (
        [search_tokens(model, TOKENIZER, PROMPT, BeamParams(num_beams=n, max_tokens=4)) for model in models]
        for n in (1, 64)
    )
    gains = [after.score(1.0) - before.score(1.0) for before, after in zip(greedy, wide, strict=True)]
    assert min(gains) >= -1e-4
    assert max(gains) > 0.01


def test_a_stop_text_ends_a_candidate_and_is_no_part_of_the_text() -> None:
    model = make_tiny_model(seed=4)
    whole = search(model, TOKENIZER, PROMPT, BeamParams(num_beams=1, max_tokens=6, length_penalty=0.0))
    assert whole.finish_reason == "length"
    assert len(whole.text) > 3
    stop = whole.text[1:3]
    cut = search(model, TOKENIZER, PROMPT, BeamParams(num_beams=1, max_tokens=6, length_penalty=0.0, stop=(stop,)))
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert cut.completion_tokens < whole.completion_tokens


def most_repeated(tokens: tuple[int, ...]) -> int:
    return max(Counter(tokens).values())


def test_a_repetition_penalty_changes_what_is_likely() -> None:
    model = make_tiny_model(seed=4)
    plain, penalised = (
        search_tokens(
            model, TOKENIZER, PROMPT, BeamParams(num_beams=2, max_tokens=8, repetition_penalty=penalty)
        ).tokens
        for penalty in (1.0, 50.0)
    )
    assert most_repeated(penalised) < most_repeated(plain)


def test_slots_take_over_what_their_parents_held() -> None:
    model = make_tiny_model(seed=1)
    cache = KVCache(model.config, num_slots=3)
    for slot, text in enumerate(([3, 4], [4, 3, 5], [5])):
        model(torch.tensor([text]), cache=cache, slots=[slot])
    cache.reorder([1, 1, 0])
    assert cache.lengths == [3, 3, 2]
    with torch.inference_mode():
        (row,) = model(torch.tensor([[3]]), cache=cache, slots=[2])[:, -1]
        expected = model(torch.tensor([[3, 4, 3]]))[0, -1]
    torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"num_beams": 0}, {"max_tokens": 0}, {"length_penalty": -1.0}, {"repetition_penalty": 0.0}]
)
def test_numbers_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(BeamsInvalid, match=next(iter(wrong))):
        BeamParams(**wrong)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(BeamsInvalid, match="stop"):
        BeamParams(stop=("",))


def test_a_prompt_without_room_is_refused() -> None:
    with pytest.raises(PromptInvalid, match="17 tokens"):
        search(make_tiny_model(seed=1), TOKENIZER, [5] * 17, BeamParams(max_tokens=SamplingParams().max_tokens))
