from pathlib import Path

import pytest
import torch

from ml.checkpoint import save_model
from ml.export.weights import WeightsTooLarge, graph, rounded, tensors
from ml.run import Run
from tests.ml.make import make_config, make_model


def test_the_weights_are_the_checkpoints(run: Run) -> None:
    ours = run.model.state_dict()
    theirs = dict(tensors(run.checkpoint))
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_a_graph_drops_nothing_out(tmp_path: Path) -> None:
    model = make_model(make_config(dropout=0.5), scale=6.0)
    save_model(model, tmp_path / "model.safetensors")
    tokens = torch.arange(10)[None]
    expected = model.eval()(tokens)
    torch.testing.assert_close(graph(tmp_path / "model.safetensors", dtype="fp32")(tokens), expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_graph_in_half_precision_gives_nearly_the_same_logits_in_fp32(run: Run, dtype: str) -> None:
    tokens = torch.arange(10)[None]
    logits = graph(run.checkpoint, dtype=dtype)(tokens)
    assert logits.dtype == torch.float32
    error = (logits - run.model.eval()(tokens)).abs().max()
    assert 0 < error < 0.5


def test_a_weight_beyond_fp16_is_refused(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[0] = 70_000
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(WeightsTooLarge, match=r"model\.norm\.weight .*--dtype fp32"):
        graph(tmp_path / "model.safetensors", dtype="fp16")
    assert rounded(model.model.norm.weight, name="norm", dtype="bf16").isfinite().all()
