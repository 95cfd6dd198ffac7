"""Tokens a second of the contenders, who take turns, so that all of them see the same machine."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.serving.engine_contenders import CONTENDERS

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What serve_engine gives itself, for the engine that shares its cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is generated, and by what."""

    home: Path
    threads: int
    batch: int
    new_tokens: int


class Contender:
    """A process that generates whenever it is asked to, and waits in between."""

    def __init__(self, name: str, setting: Setting, environment: dict[str, str] | None = None) -> None:
        numbers = (setting.threads, setting.batch, setting.new_tokens)
        module = "benchmarks.serving.engine_contenders"
        self._name = name
        self._num_tokens = setting.batch * setting.new_tokens
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, name, str(setting.home), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | (environment or {}),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def measure(self) -> float:
        """Units: tokens a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self._name} ended")
            # llama.cpp writes to standard output, too.
            if line.replace(".", "", 1).strip().isdigit():
                return self._num_tokens / float(line)


def rates(setting: Setting, *, names: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """By contender, one rate a repeat: the repeats' contenders one after the other."""
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(Contender(name, setting)) for name in names}
        rounds = [{name: contender.measure() for name, contender in contenders.items()} for _ in range(repeats)]
    return {name: [each[name] for each in rounds] for name in names}


def ratio(measured: dict[str, list[float]], rival: str) -> float:
    """Median over the repeats of our rate over the rival's."""
    return statistics.median(ours / theirs for ours, theirs in zip(measured["ours"], measured[rival], strict=True))


def beside_trainer(setting: Setting, *, repeats: int) -> tuple[list[float], list[float]]:
    """Our rates, alone as fast as it goes, and as served beside a volunteer's training on the same cores, in turn."""
    alone, beside = [], []
    with Contender("ours", setting) as fastest, Contender("ours", setting, ENVIRONMENT) as engine:
        engine.measure()
        for _ in range(repeats):
            alone.append(fastest.measure())
            with training():
                beside.append(engine.measure())
    return alone, beside


@contextmanager
def training() -> Iterator[None]:
    """A volunteer's training on the same cores, from its first step on."""
    command = [sys.executable, "-m", "benchmarks.serving.engine_trainer"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as trainer:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        try:
            yield
        finally:
            trainer.kill()


ALL = tuple(CONTENDERS)
