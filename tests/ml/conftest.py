import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.run import Run, open_run
from tests.ml.make_run import make_data, make_trained_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small trained run beside its dataset; nobody writes into either."""
    folder = tmp_path_factory.mktemp("trained")
    data: Path = make_data(folder / "DATA")
    return open_run(make_trained_run(folder / "RUN", data))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
