import torch

from ml.run import Run
from tests.ml.export.elsewhere import Result
from tests.ml.export.make import make_inputs, next_token_text, our_logits


def test_without_this_project_it_computes_our_logits_at_any_shape(
    one_layer_run: Run, results_elsewhere: dict[str, Result]
) -> None:
    _, logits = results_elsewhere["torch-export"]
    for tokens, theirs in zip(make_inputs(one_layer_run), logits, strict=True):
        torch.testing.assert_close(theirs, our_logits(one_layer_run, tokens), atol=1e-5, rtol=1e-5)


def test_the_readme_loads_it_and_names_our_next_token(one_layer_run: Run, results_elsewhere: dict[str, Result]) -> None:
    printed, _ = results_elsewhere["torch-export"]
    assert printed == next_token_text(one_layer_run) + "\n"
