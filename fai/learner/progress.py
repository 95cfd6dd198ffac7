"""How far a command is, on the error stream: a bar on a terminal, a line at the beginning elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress


@contextlib.contextmanager
def counting(title: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function that takes how many are done, and of how many."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{title} ...")
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=f"{title} {done:,} of {total:,} {unit}")

        yield show
