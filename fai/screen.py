"""What the volunteer sees: a live view on a terminal, one JSON line for each event elsewhere."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fai.messages import reason_sentence, sentence, state_word
from fai.sizes import Size
from ml.protocol import DeviceState

STEP_LINE_SECONDS = 1.0
REFRESH_PER_SECOND = 4
BAR_WIDTH = 30


@dataclass(kw_only=True, slots=True)
class View:
    """The present moment."""

    state: DeviceState = DeviceState.IDLE
    experiment: str | None = None
    round_number: int | None = None
    attempt_id: int | None = None
    done: int = 0
    """Tokens or bytes of what the state is busy with."""
    total: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    quoted_credits: int | None = None
    whole_bytes: int | None = None
    """Of a whole checkpoint, beside which an upload is shown."""
    available_credits: int = 0
    escrow_credits: int = 0
    pending_credits: int = 0
    reason: str | None = None
    """Why there is no work: a protocol.Reason."""
    trouble: str | None = None
    """A sentence on what is away."""


class Screen(Protocol):
    """Both kinds of screen. Safe to call from any thread; a screen that is gone (closed terminal) is no error."""

    language: str

    def say(self, key: str, **values: Any) -> None:
        """Tell the event `key` of fai.messages."""
        ...

    def show(self, **changes: Any) -> None:
        """Change fields of the View."""
        ...

    def close(self) -> None: ...


class LineScreen:
    """One JSON object a line: events as they happen, steps at most once a second; `elapsed` counts seconds."""

    def __init__(self, language: str, output: TextIO) -> None:
        self.language = language
        self._output: TextIO | None = output
        self._view = View()
        self._lock = threading.Lock()
        self._started_at = time.monotonic()
        self._step_at = float("-inf")

    def say(self, key: str, **values: Any) -> None:
        self._write({"event": key, **values, "message": sentence(self.language, key, **values)})

    def show(self, **changes: Any) -> None:
        before = (self._view.state, self._view.reason)
        _apply(self._view, changes)
        if (self._view.state, self._view.reason) != before:
            self._write(self._state_line())
        elif changes.get("loss") is not None and time.monotonic() - self._step_at >= STEP_LINE_SECONDS:
            self._step_at = time.monotonic()
            self._write(self._step_line())

    def close(self) -> None:
        self._output = None

    def _state_line(self) -> dict[str, Any]:
        view = self._view
        line: dict[str, Any] = {"event": "state", "state": view.state, "experiment": view.experiment}
        line |= {"available_credits": view.available_credits, "escrow_credits": view.escrow_credits}
        line["pending_credits"] = view.pending_credits
        message = state_word(self.language, view.state)
        if view.state == DeviceState.IDLE and view.reason is not None:
            line["reason"] = view.reason
            message = f"{message}: {reason_sentence(self.language, view.reason)}"
        return line | {"message": message}

    def _step_line(self) -> dict[str, Any]:
        view = self._view
        return {
            "event": "step",
            "experiment": view.experiment,
            "round": view.round_number,
            "attempt_id": view.attempt_id,
            "tokens": view.done,
            "token_budget": view.total,
            "loss": view.loss,
            "tokens_per_second": view.tokens_per_second,
            "message": sentence(self.language, "step", tokens=view.done, budget=view.total, loss=view.loss),
        }

    def _write(self, line: dict[str, Any]) -> None:
        line = {"elapsed": round(time.monotonic() - self._started_at, 2), **line}
        with self._lock:
            if self._output is None:
                return
            try:
                print(json.dumps(line, ensure_ascii=False, default=str), file=self._output, flush=True)
            except (OSError, ValueError):
                self._output = None


class LiveScreen:
    """A few lines at the bottom of the terminal, redrawn in place; events scroll by above them."""

    def __init__(self, language: str, output: TextIO) -> None:
        self.language = language
        self._view = View()
        self._console = Console(file=output, highlight=False)
        self._is_gone = False
        self._live = Live(
            get_renderable=lambda: _panel(self.language, self._view),
            console=self._console,
            refresh_per_second=REFRESH_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        # The first view stands before the first event, or their threads might write into each other.
        self._live.start(refresh=True)

    def say(self, key: str, **values: Any) -> None:
        if self._is_gone:
            return
        try:
            self._console.print(escape(sentence(self.language, key, **values)))
        except OSError:
            self._is_gone = True

    def show(self, **changes: Any) -> None:
        _apply(self._view, changes)

    def close(self) -> None:
        try:
            self._live.stop()
        except OSError:
            self._is_gone = True


def open_screen(language: str) -> Screen:
    """The kind of screen that standard output can show."""
    return (LiveScreen if sys.stdout.isatty() else LineScreen)(language, sys.stdout)


def _apply(view: View, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(view, name, value)


def _panel(language: str, view: View) -> Group:
    head = Text(state_word(language, view.state), style="bold")
    if view.experiment is not None and view.round_number is not None:
        head.append(
            "  " + sentence(language, "round", experiment=view.experiment, round=view.round_number), style="cyan"
        )
    lines: list[Any] = [head]
    if view.total and view.state != DeviceState.IDLE:
        lines.append(_progress(language, view))
    lines.append(
        Text(
            sentence(
                language,
                "credits_line",
                available=view.available_credits,
                escrow=view.escrow_credits,
                pending=view.pending_credits,
            ),
            style="green",
        )
    )
    if view.trouble is not None:
        lines.append(Text(view.trouble, style="yellow"))
    elif view.state == DeviceState.IDLE and view.reason is not None:
        lines.append(Text(reason_sentence(language, view.reason), style="dim"))
    return Group(*lines)


def _progress(language: str, view: View) -> Table:
    row = Table.grid(padding=(0, 2))
    # On a narrow terminal the bar gives way, not what is written beside it.
    row.add_column(max_width=BAR_WIDTH, ratio=1)
    cells = list(_cells(language, view))
    for _ in cells:
        row.add_column(no_wrap=True)
    row.add_row(ProgressBar(total=view.total, completed=view.done), *cells)
    return row


def _cells(language: str, view: View) -> Iterator[str]:
    if view.state == DeviceState.TRAINING:
        yield sentence(language, "progress", tokens=view.done, budget=view.total)
        if view.loss is not None:
            yield sentence(language, "loss", loss=view.loss)
        if view.tokens_per_second is not None:
            yield sentence(language, "speed", tokens_per_second=view.tokens_per_second)
    else:
        yield f"{Size(view.done)} / {Size(view.total)}"
    if view.state == DeviceState.UPLOADING and view.whole_bytes is not None:
        yield sentence(language, "whole", whole_bytes=Size(view.whole_bytes))
    elif view.quoted_credits is not None:
        yield sentence(language, "quoted", credits=view.quoted_credits)
