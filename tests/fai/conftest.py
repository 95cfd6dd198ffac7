"""What the tests of the volunteer's side share."""

from collections.abc import Iterator

import pytest

from tests.fai.coordinator import Coordinator
from tests.fai.make import RecordingScreen


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    with Coordinator() as running:
        yield running


@pytest.fixture
def screen() -> RecordingScreen:
    return RecordingScreen()
