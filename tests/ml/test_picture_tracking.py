from pathlib import Path

from ml.picture_tracking import draw
from ml.tracking import Tracking, read_metrics


def lines_of(run: Path) -> list[list[float]]:
    """The heights of each line of the picture: the losses, their mean, the validation losses."""
    return [list(line.get_ydata()) for line in draw(read_metrics(run)).axes[0].lines]


def write_run(run: Path, *, first: int, last: int) -> None:
    with Tracking(run, config={}, step=first, names=["picture"]) as tracking:
        for step in range(first + 1, last + 1):
            tracking.write({"step": step, "tokens": 10 * step, "loss": 8.0 - step})
        tracking.write({"step": last, "tokens": 10 * last, "validation_loss": 9.0 - last})


def test_the_picture_shows_every_loss_of_a_resumed_run(tmp_path: Path) -> None:
    write_run(tmp_path, first=0, last=2)
    before = (tmp_path / "loss.png").read_bytes()
    write_run(tmp_path, first=2, last=3)
    assert before.startswith(b"\x89PNG")
    assert (tmp_path / "loss.png").read_bytes() != before
    assert lines_of(tmp_path) == [[7.0, 6.0, 5.0], [7.0, 6.0, 5.0], [7.0, 6.0]]


def test_the_line_of_a_long_run_is_a_mean(tmp_path: Path) -> None:
    with Tracking(tmp_path, config={}, step=0, names=["picture"]) as tracking:
        for step in range(1, 41):
            tracking.write({"step": step, "tokens": step, "loss": float(step % 2)})
    losses, means = lines_of(tmp_path)
    assert (len(losses), len(means)) == (40, 39)
    assert set(means) == {0.5}


def test_a_run_that_ends_before_its_first_step_has_no_picture(tmp_path: Path) -> None:
    Tracking(tmp_path, config={}, step=0, names=["picture"]).__exit__(None, None, None)
    assert not (tmp_path / "loss.png").exists()
