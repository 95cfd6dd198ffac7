"""What `fai train` shows: a live view on a terminal, a plain line every few seconds elsewhere."""

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ml.training_job import Outcome, Plan, Progress, Searching, Stopping
from ml.training_run import Event

LINE_SECONDS = 5.0
ESTIMATE_SECONDS = 3.0
"""Of training before the time it takes is worth telling: the first steps are slower."""
BARS = "▁▂▃▄▅▆▇█"
MAX_BUCKETS = 60
SMOOTHING = 0.1
"""Weight of the newest step in the shown speed."""


class History:
    """The losses so far as at most MAX_BUCKETS means over equally many steps each."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._steps_per_bucket = 1
        self._open: list[float] = []

    def add(self, loss: float) -> None:
        self._open.append(loss)
        if len(self._open) < self._steps_per_bucket:
            return
        self._means.append(sum(self._open) / len(self._open))
        self._open = []
        if len(self._means) == MAX_BUCKETS:
            self._means = [(left + right) / 2 for left, right in zip(self._means[::2], self._means[1::2], strict=True)]
            self._steps_per_bucket *= 2

    def sparkline(self) -> str:
        """One bar a bucket, between the lowest and the highest."""
        if not self._means:
            return ""
        low, high = min(self._means), max(self._means)
        scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
        return "".join(BARS[round((mean - low) * scale)] for mean in self._means)


class TrainScreen:
    """Both kinds: what happens is printed, where the training stands is shown or printed now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._history = History()
        self._progress: Progress | None = None
        self._validation = ""
        self._speed = 0.0
        self._began_at = time.monotonic()
        self._line_at = float("-inf")
        self._is_estimated = False

    def say(self, event: Event) -> None:
        """Tell of something that happens once."""
        match event:
            case Searching():
                self._print("Looking for the micro-batch that trains fastest here ...")
            case Plan():
                self._print("\n".join(describe_plan(event)))
                self._began_at = time.monotonic()
            case Stopping():
                self._print("Stopping: the present step is finished and saved. Ctrl+C again leaves at once, unsaved.")

    def show(self, progress: Progress) -> None:
        """Tell where the training stands."""
        self._history.add(progress.loss)
        self._speed += (progress.tokens_per_second - self._speed) * (SMOOTHING if self._progress else 1.0)
        if progress.validation_loss is not None:
            self._validation = f"validation {progress.validation_loss:.4f}, best {progress.best_loss:.4f}"
        self._progress = progress
        if not self._console.is_terminal:
            self._show_line(progress)
        if not self._is_estimated and time.monotonic() - self._began_at > ESTIMATE_SECONDS:
            self._is_estimated = True
            self._print(f"About {duration(progress.eta_seconds)} to go, at {self._speed:,.0f} tokens/s.")

    def view(self) -> Group:
        """The live view: step and time left, figures, the loss so far."""
        progress = self._progress
        if progress is None:
            return Group()
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"step {progress.step:,} of {progress.num_steps:,}", style="bold"),
            ProgressBar(total=progress.num_steps, completed=progress.step, width=24),
            f"{progress.step / progress.num_steps:.0%}",
            time_left(progress),
        )
        losses = Text(f"loss {progress.loss:.4f}", style="cyan")
        if self._validation:
            losses.append(f"   {self._validation}", style="green")
        speed = Text(f"learning rate {progress.learning_rate:.2e}   {self._speed:,.0f} tokens/s", style="dim")
        return Group(head, losses, speed, Text(self._history.sparkline(), style="cyan"))

    def _show_line(self, progress: Progress) -> None:
        now = time.monotonic()
        is_worth_it = progress.validation_loss is not None or progress.step == progress.num_steps
        if not is_worth_it and now - self._line_at < LINE_SECONDS:
            return
        self._line_at = now
        parts = [
            f"step {progress.step:,}/{progress.num_steps:,} ({progress.step / progress.num_steps:.0%})",
            f"loss {progress.loss:.4f}",
            *([self._validation] if progress.validation_loss is not None else []),
            f"rate {progress.learning_rate:.2e}",
            f"{self._speed:,.0f} tokens/s",
            time_left(progress),
        ]
        self._print("  ".join(parts))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)


@contextmanager
def open_screen() -> Iterator[TrainScreen]:
    """The kind of screen that standard error can show."""
    console = Console(stderr=True)
    screen = TrainScreen(console)
    if not console.is_terminal:
        yield screen
        return
    with Live(get_renderable=screen.view, console=console, refresh_per_second=4, redirect_stdout=False):
        yield screen


def describe_plan(plan: Plan) -> list[str]:
    """What is about to be trained, in a few lines."""
    model = plan.config.model
    total = plan.num_steps * plan.step_tokens
    begin = f"Resuming {plan.run} at step {plan.first_step:,}" if plan.first_step else f"Training {plan.run}"
    places = f" on {plan.devices} processes" if plan.devices > 1 else ""
    return [
        f"{begin}: {model.num_parameters:,} parameters ({model.n_layer} layers of {model.n_embd}, "
        f"{model.vocab_size:,} tokens in the vocabulary, context {model.block_size:,}).",
        f"{plan.num_steps:,} steps of {plan.step_tokens:,} tokens are {total:,} tokens, "
        f"{total / plan.train_tokens:.1f} times the {plan.train_tokens:,} of the dataset.",
        f"{plan.hardware.device.upper()} ({plan.hardware.name}){places}, {plan.precision}, {plan.micro_batch} of "
        f"{plan.num_rows} rows at a time.",
    ]


def say_outcome(outcome: Outcome, *, resume_command: str) -> None:
    """Print how the training ended, and what to do next."""
    reasons = {
        "finished": f"Finished {outcome.step:,} steps in {duration(outcome.seconds)}.",
        "patience": f"Stopped early after {outcome.step:,} of {outcome.num_steps:,} steps, for the validation loss "
        "fell no more.",
        "interrupted": f"Saved at step {outcome.step:,} of {outcome.num_steps:,}.",
    }
    lines = [reasons[outcome.reason]]
    if outcome.best_loss is not None:
        lines.append(
            f"Best validation loss {outcome.best_loss:.4f} at step {outcome.best_step:,}, in {outcome.run / 'best'}."
        )
    if outcome.reason == "interrupted":
        lines.append(f"Go on with: {resume_command}")
    else:
        run = shlex.quote(str(outcome.run))
        lines.append(f"Next: fai evaluate {run}, or fai chat {run}")
    print("\n".join(lines), file=sys.stdout)


def time_left(progress: Progress) -> str:
    return f"{duration(progress.eta_seconds)} left" if progress.step < progress.num_steps else "done"


def duration(seconds: float) -> str:
    """In the two units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"
