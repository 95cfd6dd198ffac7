import pytest
import torch

from inference.engine.runner import Choice, RequestInvalid, Runner
from inference.wire import ChoiceTokens, PromptLogprobs
from ml.generation import generate_tokens
from ml.token_logprobs import TokenLogprobs
from tests.inference.make import CONFIG, make_choice, make_gpt, make_runner


def finish(runner: Runner, *, known: dict[int, list[int]] | None = None) -> dict[int, list[int]]:
    """Tokens by choice, those already known before the others, when all are done."""
    tokens = {index: list(before) for index, before in (known or {}).items()}
    while not runner.is_idle:
        for event in step(runner):
            of_choice = tokens.setdefault(event.index, [])
            assert event.offset == len(of_choice)
            of_choice += event.tokens
    return tokens


def step(runner: Runner) -> list[ChoiceTokens]:
    return [made.event for made in runner.step() if isinstance(made.event, ChoiceTokens)]


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
    early = [token for _ in range(3) for event in step(runner) for token in event.tokens]
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
    reasons = [event.finish_reason for _ in range(3) for event in step(runner)]
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


def test_a_bias_on_a_token_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="logit_bias"):
        make_runner().add([make_choice([5], logit_bias=((CONFIG.vocab_size, 1.0),))])


def expected_logprobs(text: list[int], *, num_top: int) -> list[TokenLogprobs]:
    """Of every token but the first, by the model's own forward pass."""
    with torch.inference_mode():
        logprobs = make_gpt().eval()(torch.tensor([text]))[0].log_softmax(-1)
    values, tokens = (part.tolist() for part in logprobs.topk(num_top))
    return [
        TokenLogprobs(
            token=token,
            logprob=float(logprobs[place, token]),
            top=tuple(zip(tokens[place], values[place], strict=True)),
        )
        for place, token in enumerate(text[1:])
    ]


def assert_close(found: list[TokenLogprobs], expected: list[TokenLogprobs]) -> None:
    assert [each.token for each in found] == [each.token for each in expected]
    assert [each.logprob for each in found] == pytest.approx([each.logprob for each in expected], abs=1e-4)
    for one, other in zip(found, expected, strict=True):
        assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], abs=1e-4)


def test_tokens_come_with_their_log_probabilities_where_they_are_asked_for() -> None:
    runner = make_runner()
    asked = make_choice([5, 6, 7], index=0, num_logprobs=3)
    runner.add([asked, make_choice([9, 8], index=1)])
    found: list[TokenLogprobs] = []
    while not runner.is_idle:
        for event in step(runner):
            assert (event.logprobs is not None) == (event.index == 0)
            found += event.logprobs or ()
    assert_close(found, expected_logprobs(asked.text, num_top=3)[2:])


def test_a_prompt_is_scored_once_before_its_choices_tokens() -> None:
    runner = make_runner()
    prompt = [5 + place for place in range(20)]
    choices = [
        make_choice(list(prompt), index=index, num_logprobs=2, has_prompt_logprobs=index == 0) for index in range(2)
    ]
    runner.add(choices)
    events = []
    while not runner.is_idle:
        events += [made.event for made in runner.step()]
    [scored] = [event for event in events if isinstance(event, PromptLogprobs)]
    assert events[0] is scored
    assert scored.logprobs[0] is None
    assert_close([each for each in scored.logprobs[1:] if each], expected_logprobs(prompt, num_top=2))


def test_a_long_prompt_is_scored_whole_though_it_is_known_and_read_in_pieces() -> None:
    runner = make_runner()
    prompt = [5 + place % 200 for place in range(40)]
    runner.add([make_choice(list(prompt), max_tokens=1)])
    finish(runner)
    runner.add([make_choice(list(prompt), index=1, max_tokens=1, has_prompt_logprobs=True)])
    [scored, _] = [made.event for made in runner.step()]
    assert isinstance(scored, PromptLogprobs)
    assert_close([each for each in scored.logprobs[1:] if each], expected_logprobs(prompt, num_top=0))


def test_choices_of_one_prompt_are_what_each_would_be_alone() -> None:
    prompt = [5 + place for place in range(20)]
    choices = [make_choice(list(prompt), index=index) for index in range(5)]
    expected = {choice.index: alone(choice) for choice in choices}
    runner = make_runner()
    runner.add(choices)
    assert finish(runner) == expected
    assert len({tuple(tokens) for tokens in expected.values()}) > 1


def test_penalties_count_what_was_generated() -> None:
    greedy = make_choice([5, 6, 7], temperature=0.0, max_tokens=12)
    penalised = make_choice([5, 6, 7], index=1, temperature=0.0, max_tokens=12, presence_penalty=1000.0)
    runner = make_runner()
    runner.add([greedy, penalised])
    tokens = finish(runner)
    assert len(set(tokens[1])) == 12
    assert tokens[0] == alone(make_choice([5, 6, 7], temperature=0.0, max_tokens=12))
