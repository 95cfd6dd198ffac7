from pathlib import Path

import pytest

from tests.ml.make_run import make_data, make_trained_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run beside its dataset, DATA; nobody writes into either."""
    folder = tmp_path_factory.mktemp("trained")
    return make_trained_run(folder / "RUN", make_data(folder / "DATA"))
