import pytest

from inference.runner import Choice, RequestInvalid, Runner
from ml.generation import generate_tokens
from tests.inference.make import CONFIG, make_choice, make_gpt, make_runner


def finish(runner: Runner, *, known: dict[int, list[int]] | None = None) -> dict[int, list[int]]:
    """Tokens by choice, those already known before the others, when all are done."""
    tokens = {index: list(before) for index, before in (known or {}).items()}
    while not runner.is_idle:
        for generated in runner.step():
            of_choice = tokens.setdefault(generated.choice.index, [])
            assert generated.event.offset == len(of_choice)
            of_choice += generated.event.tokens
    return tokens


def alone(choice: Choice) -> list[int]:
    return list(generate_tokens(make_gpt(), choice.text, choice.params))


def test_texts_of_any_length_go_on_together_as_they_would_alone() -> None:
    choices = [make_choice(list(range(5, 5 + length)), index=length) for length in (1, 9, 4, 17, 2, 6, 30)]
    expected = {choice.index: alone(choice) for choice in choices}
    runner = make_runner(num_slots=3)
    runner.add(choices)
    assert finish(runner) == expected


def test_a_text_that_joins_later_disturbs_nobody() -> None:
    first, second = make_choice([5, 6, 7], index=1), make_choice([9, 8], index=2)
    expected = {1: alone(first), 2: alone(second)}
    runner = make_runner()
    runner.add([first])
    early = [token for _ in range(3) for generated in runner.step() for token in generated.event.tokens]
    runner.add([second])
    assert finish(runner, known={1: early}) == expected


def test_a_stop_token_ends_a_text_and_is_its_last() -> None:
    tokens = alone(make_choice([5, 6]))
    stop = tokens[3]
    runner = make_runner()
    runner.add([make_choice([5, 6], stop_tokens=frozenset({stop}))])
    assert finish(runner)[0] == tokens[: tokens.index(stop) + 1]


def test_the_reason_is_given_with_the_last_token() -> None:
    runner = make_runner()
    runner.add([make_choice([5, 6], max_tokens=3)])
    reasons = [generated.event.finish_reason for _ in range(3) for generated in runner.step()]
    assert reasons == [None, None, "length"]


def test_a_text_may_fill_the_context() -> None:
    runner = make_runner()
    runner.add([make_choice([5] * 4, max_tokens=CONFIG.block_size - 4)])
    assert len(finish(runner)[0]) == CONFIG.block_size - 4


def test_dropping_a_text_frees_its_place_at_once() -> None:
    runner = make_runner(num_slots=2)
    runner.add([make_choice([5, 6], index=index) for index in range(3)])
    begun = {generated.choice.index: list(generated.choice.text[2:]) for _ in range(2) for generated in runner.step()}
    assert runner.num_free == 0
    runner.drop(lambda choice: choice.index in {0, 2})
    assert runner.num_free == 1
    expected = {0: begun[0], 1: alone(make_choice([5, 6], index=1))}
    assert finish(runner, known=begun) == expected


@pytest.mark.parametrize("choice", [make_choice([]), make_choice([5] * 57), make_choice([5, 300]), make_choice([-1])])
def test_what_the_model_cannot_continue_is_refused_whole(choice: Choice) -> None:
    runner = make_runner()
    with pytest.raises(RequestInvalid):
        runner.add([make_choice([5]), choice])
    assert runner.is_idle
