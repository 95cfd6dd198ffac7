import io
import json
from typing import Any

import pytest
from rich.console import Console

from fai.screen import LineScreen, LiveScreen, View, _panel
from ml.protocol import DeviceState


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def render(language: str, view: View) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(_panel(language, view))
    return capture.get()


def test_each_event_is_one_json_line_with_its_sentence() -> None:
    output = io.StringIO()
    LineScreen("ko", output).say("joined", url="https://x", nickname="내 컴퓨터")
    (line,) = lines(output)
    assert line["event"] == "joined"
    assert line["nickname"] == "내 컴퓨터"
    assert line["message"] == "내 컴퓨터(으)로 https://x에 참여했습니다."


def test_steps_are_told_at_most_once_a_second() -> None:
    output = io.StringIO()
    screen = LineScreen("en", output)
    screen.show(state=DeviceState.TRAINING, total=640)
    for tokens in range(64, 640, 64):
        screen.show(done=tokens, loss=3.25, tokens_per_second=100.0)
    state, step = lines(output)
    assert state["state"] == "training"
    assert (step["tokens"], step["loss"], step["message"]) == (64, 3.25, "Trained 64 of 640 tokens, loss 3.250.")


def test_a_change_of_reason_is_told_once_and_in_words() -> None:
    output = io.StringIO()
    screen = LineScreen("en", output)
    screen.show(reason="experiment_paused")
    screen.show(reason="experiment_paused")
    (line,) = lines(output)
    assert line["reason"] == "experiment_paused"
    assert "paused by its operator" in line["message"]


def test_a_reader_that_has_gone_is_no_error() -> None:
    output = io.StringIO()
    screen = LineScreen("en", output)
    output.close()
    screen.say("goodbye")
    screen.say("goodbye")


@pytest.mark.parametrize(
    ("language", "words"), [("en", ["training", "worth 7 credits", "escrow"]), ("ko", ["학습 중", "7크레딧", "보류"])]
)
def test_the_live_view_shows_what_is_going_on(language: str, words: list[str]) -> None:
    view = View(
        state=DeviceState.TRAINING,
        experiment="tiny",
        round_number=3,
        done=320,
        total=640,
        loss=2.5,
        tokens_per_second=1234.0,
        quoted_credits=7,
    )
    text = render(language, view)
    for word in [*words, "tiny", "320", "2.500", "1,234"]:
        assert word in text


def test_the_live_view_says_why_it_is_idle_and_what_is_away() -> None:
    assert "no experiment is running" in render("en", View(reason="no_running_experiment"))
    assert "Redis is away" in render("en", View(reason="no_running_experiment", trouble="Redis is away"))


def test_a_live_screen_prints_events_above_the_view() -> None:
    output = io.StringIO()
    screen = LiveScreen("en", output)
    screen.say("trouble", text="[not markup] here")
    screen.close()
    assert "[not markup] here" in output.getvalue()
