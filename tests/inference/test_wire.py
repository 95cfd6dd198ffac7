from inference import wire
from inference.wire import ChoiceTokens, Event, Failed, GenerationRequest, Started
from tests.inference.make import make_request


def test_a_request_arrives_as_it_was_sent() -> None:
    request = make_request(prompts=((1, 2), (3,)), n=2, stop_tokens=(0, 4), top_k=5, temperature=0.5, seed=2**62)
    assert GenerationRequest.decode(request.encode()) == request


def test_events_arrive_as_they_were_sent() -> None:
    events = [
        Started(engine_id="e", checkpoint_id=3, checkpoint_sha256="ab"),
        ChoiceTokens(index=1, offset=4, tokens=(7, 8), finish_reason="stop"),
        Failed(message="no"),
    ]
    assert wire.decode_events(wire.encode_events(events)) == events


def test_each_prompt_counts_once_and_each_choice_may_reach_its_limit() -> None:
    request = make_request(prompts=((1, 2), (3,)), n=4, max_tokens=10)
    assert (request.num_choices, request.prompt_tokens, request.max_completion_tokens) == (8, 3, 80)


def test_events_that_follow_each_other_are_told_at_once() -> None:
    events: list[Event] = [
        ChoiceTokens(index=0, offset=0, tokens=(1,)),
        ChoiceTokens(index=1, offset=0, tokens=(7,)),
        ChoiceTokens(index=0, offset=1, tokens=(2,)),
        ChoiceTokens(index=1, offset=1, tokens=(8,), finish_reason="stop"),
        ChoiceTokens(index=0, offset=2, tokens=(3,), finish_reason="length"),
    ]
    assert wire.merge(events) == [
        ChoiceTokens(index=0, offset=0, tokens=(1, 2, 3), finish_reason="length"),
        ChoiceTokens(index=1, offset=0, tokens=(7, 8), finish_reason="stop"),
    ]


def test_events_with_a_gap_or_a_repetition_stay_apart() -> None:
    repeated: list[Event] = [
        ChoiceTokens(index=0, offset=0, tokens=(1, 2)),
        ChoiceTokens(index=0, offset=1, tokens=(2,)),
    ]
    assert wire.merge(repeated) == repeated
