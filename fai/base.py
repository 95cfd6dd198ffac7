"""A round's base checkpoint: from the steps that lead to it from one that the cache holds, else downloaded whole."""

from collections.abc import Callable
from pathlib import Path

from fai.cache import Cache, File
from fai.client import CoordinatorError
from fai.screen import Screen
from fai.sizes import Size
from fai.stop import Stop
from ml.protocol import BlobRef, JobSpec, StepRef
from ml.step_file import apply_step


def fetch_base(spec: JobSpec, *, cache: Cache, fetch: Callable[[File], Path], screen: Screen) -> Path:
    """Path of the base, whose bytes are the same either way: each checkpoint on the way is held to its SHA-256.

    Raises: what `fetch` raises of the whole checkpoint.
    """
    steps = useful_steps(spec, cache)
    if not steps:
        return fetch(spec.base)
    try:
        path = _walk(spec.base, steps, cache=cache, fetch=fetch)
    except (Stop, CoordinatorError, ValueError) as error:
        screen.say("steps_useless", why=str(error))
        return fetch(spec.base)
    steps_bytes = sum(step.size_bytes for step in steps)
    screen.say("base_from_steps", steps_bytes=Size(steps_bytes), saved_bytes=Size(spec.base.size_bytes - steps_bytes))
    return path


def useful_steps(spec: JobSpec, cache: Cache) -> tuple[StepRef, ...]:
    """The last of the job's steps, from the newest checkpoint in the cache on; none where there is a better way."""
    if cache.missing_bytes(spec.base) == 0:
        return ()
    wanted = spec.base.sha256
    for index in reversed(range(len(spec.steps))):
        step = spec.steps[index]
        if step.result_sha256 != wanted:
            return ()
        wanted = step.base_sha256
        if cache.holds(wanted):
            steps = spec.steps[index:]
            return steps if _is_worth_it(spec.base, steps, cache) else ()
    return ()


def _is_worth_it(base: BlobRef, steps: tuple[StepRef, ...], cache: Cache) -> bool:
    """Fewer bytes to download, and two checkpoints and a step at a time within the cache's bound."""
    largest_bytes = 2 * base.size_bytes + max(step.size_bytes for step in steps)
    return sum(map(cache.missing_bytes, steps)) < cache.missing_bytes(base) and largest_bytes <= cache.max_bytes


def _walk(base: BlobRef, steps: tuple[StepRef, ...], *, cache: Cache, fetch: Callable[[File], Path]) -> Path:
    path = cache.path(steps[0].base_sha256)
    for index, step in enumerate(steps):
        path = _advance(path, step, size_bytes=base.size_bytes, cache=cache, fetch=fetch)
        cache.drop(step.sha256)
        if index:
            # Nobody trains from what lies between.
            cache.drop(step.base_sha256)
    return path


def _advance(base_path: Path, step: StepRef, *, size_bytes: int, cache: Cache, fetch: Callable[[File], Path]) -> Path:
    """Path of the step's result. Where it is not what it should be, whatever is damaged leaves the cache."""
    step_path = fetch(step)
    result = BlobRef(sha256=step.result_sha256, size_bytes=size_bytes)
    try:
        return cache.make(
            result,
            lambda path: apply_step(base_path=base_path, step_path=step_path, result_path=path),
            keep=(step.base_sha256, step.sha256),
        )
    except ValueError:
        cache.drop_if_damaged(step.base_sha256)
        cache.drop_if_damaged(step.sha256)
        raise
