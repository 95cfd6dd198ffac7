import io
from pathlib import Path

import pytest
from rich.console import Console

from fai.learner.train_screen import BARS, MAX_BUCKETS, History, TrainScreen, describe_plan, duration, say_outcome
from ml.config_file import Choices, build_config
from ml.hardware import Hardware
from ml.training_job import Outcome, Plan, Progress, Searching, Stopping


def make_progress(step: int = 120, *, loss: float = 3.25, validation_loss: float | None = None) -> Progress:
    return Progress(
        step=step,
        num_steps=1_000,
        tokens=step * 4_096,
        loss=loss,
        learning_rate=9.8e-4,
        tokens_per_second=12_345.0,
        eta_seconds=3_725.0,
        validation_loss=validation_loss,
        best_loss=validation_loss,
    )


def make_plan(*, first_step: int = 0, devices: int = 1) -> Plan:
    return Plan(
        run=Path("실행"),
        config=build_config(Choices(preset="m4"), vocab_size=24_000),
        train_tokens=1_000_000,
        first_step=first_step,
        num_steps=977,
        num_rows=16,
        hardware=Hardware(device="cpu", name="EPYC", memory_bytes=2**30, cores=2, bf16=True),
        devices=devices,
        precision="bf16",
        micro_batch=8,
    )


def make_outcome(reason: str, *, best_loss: float | None = 2.5) -> Outcome:
    return Outcome(
        run=Path("run"), reason=reason, step=70, num_steps=100, best_loss=best_loss, best_step=50, seconds=75
    )


def make_screen(*, is_terminal: bool = False, width: int = 80) -> tuple[TrainScreen, io.StringIO]:
    output = io.StringIO()
    return TrainScreen(Console(file=output, width=width, force_terminal=is_terminal, color_system=None)), output


def test_the_plan_says_model_steps_and_machine() -> None:
    lines = describe_plan(make_plan())
    assert lines[0].startswith("Training 실행: 19,838,592 parameters (6 layers of 384")
    assert lines[1] == "977 steps of 4,096 tokens are 4,001,792 tokens, 4.0 times the 1,000,000 of the dataset."
    assert lines[2] == "CPU (EPYC), bf16, 8 of 16 rows at a time."
    assert describe_plan(make_plan(first_step=500))[0].startswith("Resuming 실행 at step 500: ")
    assert "on 2 processes" in describe_plan(make_plan(devices=2))[2]


def test_elsewhere_than_on_a_terminal_a_line_comes_every_few_seconds_and_after_each_evaluation() -> None:
    screen, output = make_screen()
    screen.say(make_plan())
    for step in range(1, 9):
        screen.show(make_progress(step, validation_loss=3.5 if step == 5 else None))
    lines = output.getvalue().splitlines()[3:]
    assert [line.split()[1] for line in lines] == ["1/1,000", "5/1,000"]
    assert "validation 3.5000, best 3.5000" in lines[1]
    assert "rate 9.80e-04  12,345 tokens/s  1 h 2 min left" in lines[0]


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_shows_every_figure_in_four_lines(width: int) -> None:
    screen, _ = make_screen(is_terminal=True, width=width)
    for step in range(1, 200):
        screen.show(make_progress(step, loss=9 - step / 40, validation_loss=3.5 if step == 100 else None))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(screen.view())
    lines = capture.get().splitlines()
    assert len(lines) == 4
    for word in ("step 199 of 1,000", "20%", "1 h 2 min left", "loss 4.0250", "validation 3.5000", "12,345 tokens/s"):
        assert word in capture.get()
    assert lines[3].strip()[0] == BARS[-1]
    assert lines[3].strip()[-1] == BARS[0]


def test_the_history_stays_short_and_keeps_means() -> None:
    history = History()
    for step in range(10_000):
        history.add(float(step))
    bars = history.sparkline()
    assert MAX_BUCKETS // 2 <= len(bars) < MAX_BUCKETS
    assert list(bars) == sorted(bars, key=BARS.index)
    assert set(bars) == set(BARS)


def test_a_flat_or_empty_history_is_drawn_too() -> None:
    history = History()
    assert history.sparkline() == ""
    history.add(1.0)
    history.add(1.0)
    assert history.sparkline() == BARS[0] * 2


def test_what_happens_once_is_told_in_a_line() -> None:
    screen, output = make_screen()
    screen.say(Searching())
    screen.say(Stopping())
    searching, stopping = output.getvalue().splitlines()
    assert "micro-batch" in searching
    assert "Ctrl+C again leaves at once" in stopping


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (
            "finished",
            ["Finished 70 steps in 1 min 15 s.", "fai evaluate run", "Best validation loss 2.5000 at step 50"],
        ),
        ("patience", ["Stopped early after 70 of 100 steps", "fai chat run"]),
        ("interrupted", ["Saved at step 70 of 100.", "fai train data --out run --resume"]),
    ],
)
def test_the_end_says_how_it_went_and_what_comes_next(
    reason: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    say_outcome(make_outcome(reason), resume_command="fai train data --out run --resume")
    output = capsys.readouterr().out
    for words in expected:
        assert words in output


def test_before_the_first_evaluation_there_is_no_best(capsys: pytest.CaptureFixture[str]) -> None:
    say_outcome(make_outcome("interrupted", best_loss=None), resume_command="")
    assert "Best" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3_725, "1 h 2 min"), (90_000, "25 h 0 min")],
)
def test_a_duration_is_told_in_the_two_units_that_matter(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
