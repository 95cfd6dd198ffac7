import pytest

from ml.chat import Chat
from ml.generation import PromptInvalid
from ml.run import Run
from ml.sampling import SamplingInvalid

QUESTION = "What does widget number 7 draw?"


def make_chat(trained: Run, **params: object) -> Chat:
    return trained.chat(**{"temperature": 0.0, "max_tokens": 40} | params)


def answer(chat: Chat, question: str = QUESTION) -> str:
    return "".join(chat.ask(question))


def prompt_tokens(chat: Chat) -> int:
    assert chat.last is not None
    return chat.last.prompt_tokens


def test_an_answer_ends_where_the_model_closes_it(trained: Run) -> None:
    chat = make_chat(trained)
    assert answer(chat).startswith("Widget number")
    assert chat.last is not None
    assert chat.last.finish_reason == "stop"
    assert "[/ANSWER]" not in chat.last.text


def test_the_next_question_follows_the_turns_before_it(trained: Run) -> None:
    chat = make_chat(trained, max_tokens=30)
    first = answer(chat)
    alone = prompt_tokens(chat)
    answer(chat, "?")
    fresh = make_chat(trained)
    answer(fresh, "?")
    template_tokens = len(trained.tokenizer.encode("[ANSWER]\n" + first.removesuffix("\n") + "\n[/ANSWER]").ids)
    assert prompt_tokens(chat) == prompt_tokens(fresh) + alone - 2 + template_tokens
    assert chat.num_turns == 2


def test_the_oldest_turns_make_room_for_the_next_answer(trained: Run) -> None:
    chat = make_chat(trained)
    for _ in range(4):
        answer(chat)
    assert chat.num_forgotten == 1
    assert prompt_tokens(chat) + 40 <= trained.model.config.block_size
    chat.reset()
    answer(chat)
    assert (chat.num_forgotten, chat.num_turns) == (0, 1)


def test_a_long_question_leaves_a_shorter_answer_and_one_too_long_is_refused(trained: Run) -> None:
    chat = make_chat(trained, max_tokens=500)
    answer(chat, "widget " * 20)
    assert chat.last is not None
    assert prompt_tokens(chat) + chat.last.completion_tokens <= trained.model.config.block_size
    turns = chat.num_turns
    with pytest.raises(PromptInvalid, match="context is 96"):
        answer(chat, "widget " * 200)
    assert chat.num_turns == turns


def test_an_answer_that_is_stopped_is_remembered_as_far_as_it_came(trained: Run) -> None:
    chat = make_chat(trained)
    pieces = chat.ask(QUESTION)
    first = next(pieces)
    pieces.close()
    assert chat.last is not None
    assert (chat.last.text, chat.last.finish_reason) == (first, "interrupted")
    assert chat.num_turns == 1


def test_the_same_question_may_get_another_answer_and_the_same_talk_the_same(trained: Run) -> None:
    def talk() -> list[str]:
        chat = make_chat(trained, temperature=3.0, max_tokens=8)
        answers = []
        for _ in range(2):
            answers.append(answer(chat))
            chat.reset()
        return answers

    assert talk() == talk()
    assert len(set(talk())) == 2


def test_a_setting_out_of_range_changes_nothing(trained: Run) -> None:
    chat = make_chat(trained)
    with pytest.raises(SamplingInvalid, match="temperature"):
        chat.set(temperature=-1.0)
    chat.set(top_k=3)
    assert (chat.params.temperature, chat.params.top_k) == (0.0, 3)
