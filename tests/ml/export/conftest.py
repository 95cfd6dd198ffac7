from pathlib import Path

import pytest

from ml.export.formats import export
from ml.export.source import Source
from ml.run import Run
from tests.ml.export.elsewhere import Result, run_elsewhere
from tests.ml.export.make import make_inputs, make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained model with grouped heads; nobody writes into its folder."""
    return make_run(tmp_path_factory.mktemp("grouped") / "my-run", num_training_steps=40)


@pytest.fixture(scope="session")
def ungrouped_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model with as many key and value heads as heads, and another base of its positions."""
    return make_run(tmp_path_factory.mktemp("ungrouped") / "my-run", n_kv_head=4, rope_theta=500.0, norm_eps=1e-5)


@pytest.fixture(scope="session")
def one_layer_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """For exporters whose time grows with the layers, all of which are alike."""
    return make_run(tmp_path_factory.mktemp("one-layer") / "my-run", n_layer=1)


@pytest.fixture(scope="session")
def results_elsewhere(one_layer_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What torch's two formats give in a process without this project; one process, for torch takes long to load."""
    out = tmp_path_factory.mktemp("torch")
    loaders = {
        "torchscript": 'torch.jit.load("model.pt")',
        "torch-export": 'torch.export.load("model.pt2").module()',
    }
    folders = {name: export(Source.of_run(one_layer_run), format_name=name, out=out / name).folder for name in loaders}
    scratch: Path = tmp_path_factory.mktemp("scratch")
    return run_elsewhere(folders, scratch, loaders=loaders, inputs=make_inputs(one_layer_run))
