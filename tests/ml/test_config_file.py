import json
from pathlib import Path
from typing import Any

import pytest

from ml.config import PRESETS, TrainConfig
from ml.config_file import ChoiceInvalid, Choices, build_config, parse_setting, read_choices

TOML = """
epochs = 2
[model]
dropout = 0.1
[optimizer]
learning_rate = 3e-4
"""


def build(**settings: Any) -> TrainConfig:
    return build_config(Choices(settings=settings), vocab_size=300)


def refusal(settings: dict[str, Any] | None = None, *, file: Path | None = None, preset: str | None = None) -> str:
    with pytest.raises(ChoiceInvalid) as error:
        build_config(Choices(preset=preset, file=file, settings=settings or {}), vocab_size=300)
    return str(error.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_the_model_and_the_tokenizer_its_vocabulary(preset: str) -> None:
    config = build_config(Choices(preset=preset), vocab_size=300)
    assert config == TrainConfig(model=PRESETS[preset].replace(vocab_size=300))


def test_a_file_goes_over_the_preset_and_a_setting_over_both(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(TOML, encoding="utf-8")
    config = build_config(Choices(preset="tiny", file=path, settings={"optimizer.learning_rate": 1e-5}), vocab_size=300)
    assert (config.epochs, config.model.dropout, config.optimizer.learning_rate) == (2.0, 0.1, 1e-5)
    assert config.model.n_layer == PRESETS["tiny"].n_layer


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text(TOML, encoding="utf-8")
    values = {"epochs": 2, "model": {"dropout": 0.1}, "optimizer": {"learning_rate": 3e-4}}
    as_json.write_text("\ufeff" + json.dumps(values), encoding="utf-8")
    assert build_config(Choices(file=toml), vocab_size=300) == build_config(Choices(file=as_json), vocab_size=300)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.learning_rate=3e-4", ("optimizer.learning_rate", 3e-4)),
        ("max_steps = 1_000", ("max_steps", 1000)),
        ("max_steps=none", ("max_steps", None)),
        ("gradient_checkpointing=true", ("gradient_checkpointing", True)),
        ("optimizer.optimizer=muon", ("optimizer.optimizer", "muon")),
        ('precision="bf16"', ("precision", "bf16")),
    ],
)
def test_a_setting_is_written_as_in_toml_or_as_a_bare_word(text: str, expected: tuple[str, Any]) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["seed", "=3", "seed="])
def test_a_setting_without_key_or_value_is_shown_how_to_write_it(text: str) -> None:
    with pytest.raises(ChoiceInvalid, match="KEY=VALUE"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("learning_rat", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("optimizer.dropout", "model.dropout"),
        ("model.n_layers", "model.n_layer"),
        ("optimiser.beta1", "optimizer.beta1"),
        ("max_step", "max_steps"),
        ("lr", "optimizer.learning_rate"),
        ("patient", "patience"),
    ],
)
def test_a_wrong_key_names_the_nearest_of_all_sections(wrong: str, meant: str) -> None:
    assert f"there is no key {wrong!r}: did you mean {meant!r}?" in refusal({wrong: 1})


def test_a_wrong_table_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[optimiser]\nbeta1 = 0.8\n", encoding="utf-8")
    assert refusal(file=path) == f"{path}: there is no table 'optimiser': did you mean 'optimizer'?"


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"model": "m4"}', encoding="utf-8")
    assert f"{path}: model must be a table" in refusal(file=path)


def test_a_wrong_preset_names_the_nearest() -> None:
    assert (
        refusal(preset="smal") == "There is no preset 'smal': did you mean 'small'? There are tiny, m4, small, default."
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("optimizer.learning_rate", "fast", 'must be a number, not "fast"'),
        ("optimizer.learning_rate", True, "must be a number, not true"),
        ("optimizer.learning_rate", float("nan"), "must be a finite number"),
        ("model.n_layer", 2.0, "must be a whole number, not 2.0"),
        ("seed", True, "must be a whole number, not true"),
        ("max_steps", "many", "must be a whole number or none"),
        ("evaluate_every_steps", None, "must be a whole number, not null"),
        ("gradient_checkpointing", 1, "must be true or false, not 1"),
        ("precision", 16, "must be a word, not 16"),
        ("epochs", [1], "must be a number, not [1]"),
    ],
)
def test_a_value_of_another_type_names_key_source_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    message = refusal({name: value})
    assert message.startswith(f"--set: {name} ")
    assert allowed in message


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate must be above 0"),
        ("optimizer.weight_decay", -0.1, "optimizer.weight_decay must not be negative"),
        ("model.n_embd", 100, "model.n_embd must be a multiple of"),
        ("precision", "fp8", "precision must be auto, fp32, bf16 or fp16"),
        ("optimizer.schedule", "linear", "optimizer.schedule must be cosine or wsd"),
        ("patience", 0, "patience must be a positive integer"),
    ],
)
def test_a_value_out_of_range_names_key_source_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    message = refusal({name: value})
    assert allowed in message
    assert f"{name} is {value!r} by --set" in message


def test_a_range_that_a_file_breaks_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[model]\ndropout = 2\n", encoding="utf-8")
    assert f"model.dropout is 2.0 by {path}" in refusal(file=path)


def test_another_vocabulary_than_the_tokenizers_is_refused() -> None:
    assert "the dataset's tokenizer has 300 tokens" in refusal({"model.vocab_size": 512})
    assert build(**{"model.vocab_size": 300}).model.vocab_size == 300


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.json", b'{\n  "seed": 1,,\n}', "line 2, column 13"),
        ("c.toml", b"seed = 1\nepochs = = 2\n", "line 2, column 10"),
        ("c.json", b"[1]", "one object"),
        ("c.json", b'{"seed": 1, "seed": 2}', "'seed' stands twice"),
        ("c.toml", b"\xff\xfe", "no UTF-8"),
        ("c.yaml", b"seed: 1", "must end in .json or .toml"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(file=path)
    assert expected in message
    assert str(path) in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(file=tmp_path / "none.toml")
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert "cannot be read" in refusal(file=folder)


def test_only_what_was_named_is_chosen() -> None:
    assert set(read_choices(Choices(settings={"seed": 3}))) == {"seed"}
