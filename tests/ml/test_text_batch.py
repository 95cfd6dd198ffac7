"""Texts in a batch against the same texts alone through the model's own forward pass."""

from collections.abc import Sequence

import pytest
import torch

from ml.inference_model import InferenceModel
from ml.prefix_cache import PrefixCache
from ml.text_batch import READ_TOKENS, Piece, Text, TextBatch
from tests.ml.make_inference import make_prompt, make_trained

MODEL = make_trained(block_size=256)
MADE = InferenceModel(MODEL, weight_format="fp32")


def make_batch(*, num_slots: int = 4, prefixes: PrefixCache | None = None) -> TextBatch:
    return TextBatch(MADE, num_slots=num_slots, prefixes=prefixes)


@torch.inference_mode()
def advance(batch: TextBatch) -> list[Piece]:
    """One greedy token for every text, and a piece of the prompts."""
    if batch.decoding:
        texts = list(batch.decoding)
        for text, row in zip(texts, batch.decode(), strict=True):
            text.tokens.append(int(row.argmax()))
    pieces = batch.read()
    for piece in pieces:
        if piece.is_last:
            piece.text.tokens.append(int(piece.logits[-1].argmax()))
    return pieces


def continue_all(batch: TextBatch, texts: Sequence[Text], *, num_tokens: int) -> list[list[int]]:
    """Greedy continuations; a text that is done leaves at once."""
    waiting = list(texts)
    ends = {text: len(text.tokens) + num_tokens for text in texts}
    while waiting or batch.num_free < 4:
        while waiting and batch.admit(waiting[0]):
            waiting.pop(0)
        advance(batch)
        for text in list(batch.decoding):
            if len(text.tokens) >= ends[text]:
                batch.remove(text)
    return [text.tokens for text in texts]


@torch.inference_mode()
def alone(prompt: list[int], *, num_tokens: int) -> list[int]:
    text = list(prompt)
    for _ in range(num_tokens):
        text.append(int(MODEL(torch.tensor([text]))[0, -1].argmax()))
    return text


def test_texts_of_any_length_continue_together_as_alone() -> None:
    prompts = [make_prompt(length, seed=length) for length in (1, 30, 3, 200, 9, 130, 2)]
    expected = [alone(prompt, num_tokens=12) for prompt in prompts]
    assert continue_all(make_batch(), [Text(tokens=prompt) for prompt in prompts], num_tokens=12) == expected


def test_a_long_prompt_is_read_in_pieces_while_others_decode() -> None:
    batch = make_batch()
    short, long = Text(tokens=make_prompt(4)), Text(tokens=make_prompt(200, seed=1))
    batch.admit(short)
    advance(batch)
    batch.admit(long)
    pieces = advance(batch)
    assert [piece.is_last for piece in pieces] == [False]
    assert long.num_read == READ_TOKENS
    assert len(short.tokens) == 6
    assert [piece.is_last for piece in advance(batch)] == [True]
    assert batch.decoding == [short, long]


def test_choices_of_one_prompt_read_it_once() -> None:
    prompt = make_prompt(50)
    texts = [Text(tokens=list(prompt)) for _ in range(3)]
    batch = make_batch()
    assert [batch.admit(text) for text in texts] == [True, False, False]
    advance(batch)
    assert [batch.admit(text) for text in texts[1:]] == [True, True]
    assert [text.num_read for text in texts] == [50, 49, 49]
    expected = alone(prompt, num_tokens=10)
    for _ in range(10):
        advance(batch)
    assert all(text.tokens[:60] == expected for text in texts)


def test_a_conversation_goes_on_from_what_is_kept_with_the_same_tokens() -> None:
    prefixes = PrefixCache()
    batch = make_batch(prefixes=prefixes)
    [first] = continue_all(batch, [Text(tokens=make_prompt(40))], num_tokens=20)
    following = [*first, *make_prompt(9, seed=5)]
    text = Text(tokens=list(following))
    assert batch.admit(text)
    assert text.num_read == 59
    expected = alone(following, num_tokens=20)
    while len(text.tokens) < len(expected):
        advance(batch)
    assert text.tokens == expected
    without = make_batch(prefixes=PrefixCache(max_bytes=0))
    assert continue_all(without, [Text(tokens=list(following))], num_tokens=20) == [expected]


def test_a_prompt_whose_tokens_are_scored_is_read_whole() -> None:
    batch = make_batch()
    continue_all(batch, [Text(tokens=make_prompt(40))], num_tokens=5)
    text = Text(tokens=make_prompt(40), scores_prompt=True)
    batch.admit(text)
    [piece] = advance(batch)
    torch.testing.assert_close(piece.logits, MODEL(torch.tensor([make_prompt(40)]))[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("leaving", [0, 1, 2])
def test_a_text_that_leaves_frees_its_place_and_disturbs_nobody(leaving: int) -> None:
    prompts = [make_prompt(length, seed=length) for length in (20, 7, 33)]
    texts = [Text(tokens=list(prompt)) for prompt in prompts]
    batch = make_batch(num_slots=3)
    for text in texts:
        batch.admit(text)
    advance(batch)
    assert batch.num_free == 0
    batch.remove(texts[leaving])
    assert batch.num_free == 1
    late = Text(tokens=make_prompt(11, seed=77))
    assert batch.admit(late)
    for _ in range(15):
        advance(batch)
    texts[leaving], prompts[leaving] = late, make_prompt(11, seed=77)
    for text, prompt in zip(texts, prompts, strict=True):
        assert text.tokens == alone(prompt, num_tokens=len(text.tokens) - len(prompt))


def test_a_prompt_that_leaves_while_it_is_read_leaves_nothing_behind() -> None:
    batch = make_batch()
    text = Text(tokens=make_prompt(200, seed=1))
    batch.admit(text)
    advance(batch)
    batch.remove(text)
    assert batch.num_free == 4
    assert advance(batch) == []
    assert continue_all(batch, [Text(tokens=make_prompt(5))], num_tokens=8) == [alone(make_prompt(5), num_tokens=8)]
