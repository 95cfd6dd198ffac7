import dataclasses
from pathlib import Path

import pytest
import yaml

from ml.export.card import write_card
from ml.run import Run, RunInvalid, open_run
from tests.ml.export.make import make_run


def card_of(run: Run) -> str:
    return write_card(run, dtype="fp16", about="About it.", snippet='load("FOLDER")\n')


def test_its_metadata_says_licence_and_languages(run: Run) -> None:
    metadata = yaml.safe_load(card_of(run).split("---")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["language"] == ["en", "ko"]


def test_it_says_what_the_model_is_and_how_it_is_loaded(run: Run) -> None:
    card = card_of(run)
    for part in (
        "# my-run\n", "as fp16", "About it.", 'load(".")',
        "| Parameters | 40,512 |", "| Heads, key and value heads | 4, 2 |",
        "| Training text | 123,456 tokens |", "| Optimizer steps | 7 |", "1.5000 nats per token (perplexity 4.48)",
    ):  # fmt: skip
        assert part in card


def test_a_checkpoint_that_was_not_evaluated_has_no_loss(run: Run) -> None:
    card = card_of(open_run(run.folder, checkpoint="last"))
    assert "| Optimizer steps | 12 |" in card
    assert "perplexity" not in card


def test_texts_in_no_language_of_ours_are_not_listed(run: Run) -> None:
    data = run.data | {"val": {"groups": [{"language": "code"}]}}
    assert "language" not in yaml.safe_load(card_of(dataclasses.replace(run, data=data)).split("---")[1])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": null}'])
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    broken = make_run(tmp_path / "run")
    (tmp_path / "run/best/state.json").write_text(text)
    with pytest.raises(RunInvalid, match=r"best/state\.json .*--checkpoint"):
        card_of(broken)
