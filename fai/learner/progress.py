"""How far a command is, on the error stream: a bar on a terminal, a line elsewhere."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import track

from ml.samples import Sample


def track_samples(samples: Sequence[Sample], title: str) -> Iterable[Sample]:
    """The samples, with what is done of them under the title."""
    console = Console(stderr=True)
    if console.is_terminal:
        return track(samples, title, console=console, transient=True)
    console.print(f"{title}: {len(samples):,} documents")
    return samples
