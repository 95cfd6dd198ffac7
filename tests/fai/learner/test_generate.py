from pathlib import Path

import pytest

from fai.cli import main
from fai.learner.generate import Prompt
from ml.generation import Continuation
from ml.run import Run, open_run

QUESTION = "What does widget number 7 draw?"


def generated(run_folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert main(["generate", str(run_folder), *words]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_a_question_is_answered_up_to_the_end_of_the_answer(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = generated(run_folder, capsys, "--ask", QUESTION, "--greedy")
    assert out.startswith("Widget number")
    assert out.endswith(" family.\n")
    assert "ended by stop" in err
    assert "tokens/s" in err


def test_a_prompt_may_come_from_a_file(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(f"<|endoftext|>[QUESTION]\n{QUESTION}\n[/QUESTION]\n[ANSWER]\n", encoding="utf-8")
    from_file, _ = generated(run_folder, capsys, "--prompt-file", str(path), "--greedy")
    as_words, _ = generated(run_folder, capsys, "--prompt", path.read_text(encoding="utf-8")[:-1], "--greedy")
    assert from_file == as_words


def test_the_options_of_drawing_reach_the_model(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = ["--temperature", "1.5", "--top-k", "9", "--top-p", "0.9", "--min-p", "0.01"]
    rest = ["--repetition-penalty", "1.2", "--seed", "5", "--max-tokens", "12", "--stop", "z", "--stop", "가족"]
    out, _ = generated(run_folder, capsys, "--prompt", "7", *drawing, *rest)
    params = {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5}
    expected = open_run(run_folder).packed().generate("7", **params, max_tokens=12, stop=("z", "가족"))
    assert out.removesuffix("\n") == expected.text.removesuffix("\n")


def test_several_texts_have_a_seed_each(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", "[QUESTION]", "--temperature", "2", "--max-tokens", "9"]
    both, _ = generated(run_folder, capsys, *words, "--num", "2", "--seed", "3")
    alone, _ = generated(run_folder, capsys, *words, "--seed", "4")
    assert both.startswith("--- 1 of 2, seed 3 ---\n")
    assert both.endswith(f"--- 2 of 2, seed 4 ---\n{alone}")


def test_beams_find_a_text_and_draw_nothing(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = generated(run_folder, capsys, "--ask", QUESTION, "--beams", "3", "--length-penalty", "0.5")
    assert out.endswith(" family.\n")
    for words in (["--seed", "1"], ["--greedy"], ["--num", "2"]):
        assert main(["generate", str(run_folder), "--ask", QUESTION, "--beams", "3", *words]) == 2
        assert "leave out the options of drawing" in capsys.readouterr().err


def test_an_answer_that_was_cut_off_is_remarked_on(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = generated(run_folder, capsys, "--ask", QUESTION, "--max-tokens", "2", "--greedy")
    assert "not closed with [/ANSWER]" in err
    _, err = generated(run_folder, capsys, "--prompt", "7", "--max-tokens", "2", "--greedy")
    assert "not closed" not in err


def test_ctrl_c_leaves_with_the_exit_code_of_an_interrupt(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Run, prompt: Prompt, **params: object) -> Continuation:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "stream", interrupted)
    assert main(["generate", str(run_folder), "--prompt", "7"]) == 130


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "widget " * 300], "the model's context is 96: shorten the prompt by"),
        (["--prompt", "7", "--max-tokens", "96"], "set max_tokens to at most 95"),
        (["--prompt", "7", "--temperature", "-1"], "temperature must be 0 or above, not -1.0"),
        (["--prompt", "7", "--temperature", "nan"], "temperature must be 0 or above, not nan"),
        (["--prompt", "7", "--top-p", "2"], "top_p must lie in (0, 1]"),
        (["--prompt", "7", "--num", "0"], "--num must be at least 1"),
        (["--prompt", "7", "--stop", ""], "stop must not hold an empty text"),
        (["--prompt", "7", "--beams", "0"], "num_beams must lie between 1 and 256"),
        (["--prompt", "\udcff"], "no UTF-8"),
        (["--prompt-file", "/nowhere/prompt.txt"], "/nowhere/prompt.txt cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    run_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["generate", str(run_folder), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "More: docs/faq/generation.md" in shown.err
