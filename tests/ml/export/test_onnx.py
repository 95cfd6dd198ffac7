from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ml.export.formats import export
from ml.export.onnx import OPSET
from ml.export.source import Source
from ml.run import Run
from tests.ml.export.make import make_inputs, next_token_text, our_logits, readme_code


@pytest.fixture(scope="module")
def folder(one_layer_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Source.of_run(one_layer_run), format_name="onnx", out=tmp_path_factory.mktemp("onnx") / "D").folder


def test_onnxruntime_computes_our_logits_at_any_shape(one_layer_run: Run, folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for tokens in make_inputs(one_layer_run):
        (theirs,) = session.run(["logits"], {"tokens": tokens.numpy()})
        np.testing.assert_allclose(theirs, our_logits(one_layer_run, tokens).numpy(), atol=2e-5, rtol=1e-5)


def test_the_graph_is_valid_in_one_file_and_holds_the_embedding_once(one_layer_run: Run, folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    num_values = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert one_layer_run.model.config.num_parameters <= num_values < one_layer_run.model.config.num_parameters * 1.02
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not list(folder.glob("*.data"))


def test_the_readme_loads_it_and_names_our_next_token(
    one_layer_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(readme_code(folder), {})
    assert capsys.readouterr().out == next_token_text(one_layer_run) + "\n"
