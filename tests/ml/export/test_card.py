import dataclasses

import yaml

from ml.export.card import write_card
from ml.export.source import Source
from ml.run import Run, open_run


def card_of(source: Source) -> str:
    return write_card(source, dtype="fp16", about="About it.", snippet='load("FOLDER")\n')


def test_its_metadata_says_licence_and_languages(run: Run) -> None:
    metadata = yaml.safe_load(card_of(Source.of_run(run)).split("---")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["language"] == ["en", "ko"]


def test_it_says_what_the_model_is_and_how_it_is_loaded(run: Run) -> None:
    card = card_of(Source.of_run(run))
    for part in (
        "# my-run\n", "as fp16", "About it.", 'load(".")',
        "| Parameters | 40,512 |", "| Heads, key and value heads | 4, 2 |",
        "| Training text | 123,456 tokens |", "| Optimizer steps | 7 |", "1.5000 nats per token (perplexity 4.48)",
    ):  # fmt: skip
        assert part in card


def test_a_checkpoint_that_was_not_evaluated_has_no_loss(run: Run) -> None:
    card = card_of(Source.of_run(open_run(run.folder, checkpoint="last")))
    assert "| Optimizer steps | 12 |" in card
    assert "perplexity" not in card


def test_a_model_of_no_language_lists_none(run: Run) -> None:
    source = dataclasses.replace(Source.of_run(run), languages=())
    assert "language" not in yaml.safe_load(card_of(source).split("---")[1])
