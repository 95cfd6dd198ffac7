from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch

from ml.generation import Continuation, PromptInvalid, generate, generate_tokens, read_prompt, room_after
from ml.model import GPT
from ml.sampling import SamplingParams
from ml.tokenizer import END_OF_TEXT
from tests.ml.make import TEXT, make_config, make_model, make_tokenizer

TOKENIZER = make_tokenizer()
GREEDY = SamplingParams(temperature=0.0, max_tokens=40)


class Reciter(GPT):
    """A model that says the same tokens after any prompt."""

    def __init__(self, tokens: Sequence[int], *, block_size: int = 256) -> None:
        super().__init__(make_config(block_size=block_size))
        self.load_state_dict(make_model(self.config).state_dict())
        self.script = iter(tokens)

    def unembed(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([next(self.script)]), 300).float()


def recite(text: str, **params: object) -> object:
    tokens = TOKENIZER.encode(text + END_OF_TEXT, add_special_tokens=False).ids
    return generate(
        Reciter(tokens), TOKENIZER, "prompt", SamplingParams(temperature=0.0, **{"max_tokens": 200} | params)
    )


def test_cached_generation_says_what_the_uncached_model_says() -> None:
    model = make_model(make_config(block_size=64), scale=8.0).eval()
    text = [5, 6, 7]
    generated = list(generate_tokens(model, text, GREEDY))
    for token in generated:
        with torch.inference_mode():
            assert int(model(torch.tensor([text]))[0, -1].argmax()) == token
        text.append(token)
    assert len(set(generated)) > 5


def test_the_seed_decides_the_text() -> None:
    model = make_model(make_config(block_size=64), scale=5.0)

    def draw(seed: int) -> list[int]:
        return list(generate_tokens(model, [1, 2, 3], SamplingParams(seed=seed, max_tokens=20)))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_generation_may_fill_the_block_but_not_outgrow_it() -> None:
    model = make_model(make_config(block_size=16))
    assert len(list(generate_tokens(model, [1] * 6, SamplingParams(max_tokens=10)))) == 10
    with pytest.raises(PromptInvalid, match="has 6 tokens and max_tokens is 11; together they may be at most 16"):
        next(generate_tokens(model, [1] * 6, SamplingParams(max_tokens=11)))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptInvalid, match="empty"):
        generate(make_model(make_config(block_size=64)), TOKENIZER, "", GREEDY)


def test_tokens_are_made_only_as_they_are_asked_for() -> None:
    tokens = generate_tokens(Reciter([10, 11]), [1], SamplingParams(temperature=0.0, max_tokens=100))
    assert list(islice(tokens, 2)) == [10, 11]


def test_a_completion_ends_at_the_end_of_the_text() -> None:
    completion = recite("하나 two", max_tokens=50)
    assert (completion.text, completion.finish_reason) == ("하나 two", "stop")
    assert completion.prompt_tokens == len(TOKENIZER.encode("prompt").ids)
    assert completion.completion_tokens == len(TOKENIZER.encode("하나 two").ids) + 1


def test_a_completion_ends_at_max_tokens() -> None:
    completion = recite("aXbXcXd", max_tokens=3)
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("aXb", "length", 3)


def test_a_completion_ends_before_a_stop_text() -> None:
    completion = recite(TEXT, stop=("[/ANSWER]", "is set", "`const`는"))
    assert completion.finish_reason == "stop"
    assert completion.text == TEXT[: TEXT.index("`const`는")]


def test_the_structure_of_an_answer_is_part_of_its_text() -> None:
    assert recite("[ANSWER]\nyes\n[/ANSWER]").text == "[ANSWER]\nyes\n[/ANSWER]"


def test_the_room_after_a_prompt_is_what_the_context_leaves() -> None:
    model = make_model(make_config(block_size=16))
    assert room_after(model, [1] * 15) == 1
    with pytest.raises(PromptInvalid, match="has 18 tokens and the model's context is 16: shorten the prompt by 3"):
        room_after(model, [1] * 18)


def test_a_text_under_way_says_what_there_is_of_it() -> None:
    tokens = TOKENIZER.encode("abcdef").ids
    continuation = Continuation(
        Reciter(tokens), TOKENIZER, [1], SamplingParams(temperature=0.0, max_tokens=len(tokens))
    )
    assert continuation.completion.finish_reason == "interrupted"
    first, second = islice(continuation, 2)
    completion = continuation.completion
    assert (completion.text, completion.finish_reason) == (first + second, "interrupted")
    assert completion.completion_tokens == 2
    assert completion.tokens_per_second is not None


def test_a_prompt_file_loses_its_mark_and_its_last_line_end_only(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("\ufeff위젯은\n\n", encoding="utf-8")
    assert read_prompt(path) == "위젯은\n"


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    with pytest.raises(PromptInvalid, match=r"prompt\.txt cannot be read"):
        read_prompt(path)
    path.write_bytes("위젯".encode("cp949"))
    with pytest.raises(PromptInvalid, match=r"prompt.txt is not UTF-8 .*: save it as UTF-8"):
        read_prompt(path)
