import io
from collections.abc import Generator
from pathlib import Path

import pytest

from fai.cli import main
from ml.chat import Chat

QUESTION = "What does widget number 7 draw?"


def talk(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, *words: str
) -> tuple[str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["chat", str(run_folder), "--greedy", *words]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_questions_from_a_pipe_are_answered_in_their_language(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = talk(run_folder, capsys, monkeypatch, f"{QUESTION}\n\n/reset\n3번째 위젯은 무엇을 그리나요?\n")
    english, reset, korean = out.splitlines()
    assert english.endswith("draws the names of a family.")
    assert reset == "The talk is forgotten."
    assert korean.endswith("가족의 이름을 그려요.")
    assert "quit leaves" in err


def test_what_comes_after_quit_is_not_asked(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert talk(run_folder, capsys, monkeypatch, f"quit\n{QUESTION}\n")[0] == ""


def test_settings_are_shown_changed_and_checked(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["/temp", "/temp 0.5", "/temp x", "/temp -1", "/temp", "/tokens 7", "/topk 4", "/topk off", "/topp 2"]
    out, _ = talk(run_folder, capsys, monkeypatch, "\n".join(lines))
    assert out.splitlines() == [
        "temperature = 0.0",
        "temperature = 0.5",
        "x is no number for /temp.",
        "temperature must be 0 or above, not -1.0.",
        "temperature = 0.5",
        "max_tokens = 7",
        "top_k = 4",
        "top_k = off",
        "top_p must lie in (0, 1], not be 2.0.",
    ]


def test_help_lists_every_command_and_another_is_no_question(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = talk(run_folder, capsys, monkeypatch, "/help\n/nope\n")
    for command in ("/temp", "/tokens", "/topk", "/topp", "/reset", "/help", "quit"):
        assert command in out
    assert "There is no /nope" in out


def test_it_says_when_turns_are_forgotten_and_when_an_answer_was_cut_off(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = talk(run_folder, capsys, monkeypatch, f"{QUESTION}\n" * 3, "--max-tokens", "40")
    assert "1 of the oldest turns no longer fit" in err
    _, err = talk(run_folder, capsys, monkeypatch, f"{QUESTION}\n", "--max-tokens", "3")
    assert "not closed with [/ANSWER]: 3 tokens ended it" in err


def test_a_question_that_cannot_be_asked_does_not_end_the_talk(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n" + b"widget " * 200 + b"\n" + QUESTION.encode()))
    monkeypatch.setattr("sys.stdin", pipe)
    assert main(["chat", str(run_folder), "--greedy"]) == 0
    broken, long, answer = capsys.readouterr().out.splitlines()
    assert "no UTF-8" in broken
    assert "context is 96" in long
    assert answer.endswith("family.")


def test_ctrl_c_stops_the_answer_and_not_the_program(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Chat.ask

    def interrupted(self: Chat, question: str) -> Generator[str, None, None]:
        pieces = ask(self, question)
        try:
            yield next(pieces)
            if self.num_turns == 0:
                raise KeyboardInterrupt
            yield from pieces
        finally:
            pieces.close()

    monkeypatch.setattr(Chat, "ask", interrupted)
    out, _ = talk(run_folder, capsys, monkeypatch, f"{QUESTION}\n{QUESTION}\n")
    stopped, whole = out.splitlines()
    assert stopped.endswith(" [stopped]")
    assert len(stopped) < len(whole)


def test_bad_numbers_are_refused_before_the_talk(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(run_folder), "--top-k", "0"]) == 2
    assert "top_k must be at least 1" in capsys.readouterr().err
