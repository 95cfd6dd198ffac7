"""What a person chooses for a training: a preset, a file over it, single settings over both, all checked.

[model] and [optimizer] hold the fields of ModelConfig and InnerConfig; the other fields of TrainConfig stand above
them:

    epochs = 2
    [model]
    dropout = 0.1
    [optimizer]
    learning_rate = 3e-4
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, get_args, get_type_hints

from ml.bad_input import BadInput
from ml.config import PRESETS, ConfigInvalid, InnerConfig, ModelConfig, TrainConfig

DEFAULT_PRESET = "m4"
SECTIONS: dict[str, type] = {"model": ModelConfig, "optimizer": InnerConfig}
OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "batch_size": "optimizer.batch_tokens",
    "context_length": "model.block_size",
    "hidden_size": "model.n_embd",
    "num_layers": "model.n_layer",
}
"""What other trainers call our fields, where the letters are too far apart to guess it."""
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


class ChoiceInvalid(BadInput):
    """A configuration that cannot be used; the message names the file, the key and what it allows."""

    page: ClassVar[str] = "configuration"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What was chosen, from the weakest to the strongest; all else is TrainConfig's default."""

    preset: str | None = None
    """A name in ml.config.PRESETS; None is DEFAULT_PRESET."""
    file: Path | None = None
    """JSON or TOML."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values by full name, such as {"optimizer.learning_rate": 3e-4}."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One value, and where it was chosen, for messages."""

    value: Any
    source: str


def build_config(choices: Choices, *, vocab_size: int) -> TrainConfig:
    """The configuration of a new training, whose model has the tokenizer's vocabulary.

    Raises: ChoiceInvalid.
    """
    chosen = read_choices(dataclasses.replace(choices, preset=choices.preset or DEFAULT_PRESET))
    given = chosen.setdefault("model.vocab_size", Chosen(vocab_size, "the tokenizer"))
    if given.value != vocab_size:
        raise ChoiceInvalid(
            f"{given.source}: model.vocab_size is {given.value}, but the dataset's tokenizer has {vocab_size} tokens: "
            "leave model.vocab_size out."
        )
    try:
        return TrainConfig.from_dict(_nested({name: entry.value for name, entry in chosen.items()}))
    except ConfigInvalid as error:
        raise ChoiceInvalid(_explain(str(error), chosen)) from error


def read_choices(choices: Choices) -> dict[str, Chosen]:
    """Every value that was chosen, by full name, of the right type.

    Raises: ChoiceInvalid.
    """
    chosen: dict[str, Chosen] = {}
    if choices.preset is not None:
        chosen |= _read_preset(choices.preset)
    if choices.file is not None:
        chosen |= {name: Chosen(value, str(choices.file)) for name, value in _flat(_read_file(choices.file))}
    chosen |= {name: Chosen(value, "--set") for name, value in choices.settings.items()}
    return {name: Chosen(_checked(name, entry), entry.source) for name, entry in chosen.items()}


def parse_setting(text: str) -> tuple[str, Any]:
    """Name and value of `key=value`, the value written as in TOML; what is none is a word.

    Raises: ChoiceInvalid.
    """
    name, sign, written = (part.strip() for part in text.partition("="))
    if not sign or not name or not written:
        raise ChoiceInvalid(f"--set {text}: write it as KEY=VALUE, such as --set optimizer.learning_rate=3e-4.")
    try:
        return name, tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return name, None if written in {"none", "null"} else written


def _fields() -> dict[str, tuple[type, bool]]:
    """By full name: the type, and whether none is allowed."""
    found = {}
    for prefix, owner in {"": TrainConfig, "model.": ModelConfig, "optimizer.": InnerConfig}.items():
        for name, hint in get_type_hints(owner).items():
            if hint not in SECTIONS.values():
                kinds = get_args(hint) or (hint,)
                found[prefix + name] = (kinds[0], NoneType in kinds)
    return found


FIELDS = _fields()


def _read_preset(name: str) -> dict[str, Chosen]:
    if name not in PRESETS:
        raise ChoiceInvalid(
            f"There is no preset {name!r}: did you mean {_nearest(name, PRESETS)!r}? There are {', '.join(PRESETS)}."
        )
    values = PRESETS[name].to_dict()
    del values["vocab_size"]
    return {f"model.{key}": Chosen(value, f"--preset {name}") for key, value in values.items()}


def _read_file(path: Path) -> dict[str, Any]:
    if path.suffix not in {".json", ".toml"}:
        raise ChoiceInvalid(f"{path} must end in .json or .toml, so that it is clear which it is: rename it.")
    try:
        values = _parse(path.read_text(encoding="utf-8-sig"), is_json=path.suffix == ".json")
        return dict(_require_tables(values))
    except FileNotFoundError:
        raise ChoiceInvalid(f"{path} does not exist: name the configuration's file with --config.") from None
    except UnicodeDecodeError as error:
        raise ChoiceInvalid(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8."
        ) from error
    except OSError as error:
        raise ChoiceInvalid(f"{path} cannot be read ({error.strerror}): name another file with --config.") from error
    except ChoiceInvalid as error:
        raise ChoiceInvalid(f"{path}: {error}") from error


def _parse(text: str, *, is_json: bool) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique) if is_json else tomllib.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ChoiceInvalid(f"it is damaged at {place} ({error.msg}): mend it there.") from error
    except tomllib.TOMLDecodeError as error:
        raise ChoiceInvalid(f"it is damaged ({error}): mend it there.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """TOML refuses a name that stands twice; JSON would take the last."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ChoiceInvalid(f"{twice[0]!r} stands twice in one object of the JSON: leave one out.")
    return dict(pairs)


def _require_tables(values: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        raise ChoiceInvalid("it must hold one object of fields: begin it with {.")
    for name, value in values.items():
        if name in SECTIONS and not isinstance(value, dict):
            raise ChoiceInvalid(f"{name} must be a table of fields, not {value!r}.")
        if name not in SECTIONS and isinstance(value, dict):
            raise ChoiceInvalid(f"there is no table {name!r}: did you mean {_nearest(name, SECTIONS)!r}?")
        yield name, value


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, key = name.rpartition(".")
        if dot:
            nested.setdefault(section, {})[key] = value
        else:
            nested[key] = value
    return nested


def _checked(name: str, entry: Chosen) -> Any:
    """The value in its field's type; a whole number is a number too.

    Raises: ChoiceInvalid.
    """
    if name not in FIELDS:
        raise ChoiceInvalid(f"{entry.source}: there is no key {name!r}: did you mean {_nearest_field(name)!r}?")
    kind, may_be_none = FIELDS[name]
    value = entry.value
    if value is None and may_be_none:
        return None
    # `type` and not `isinstance`: true would pass for 1.
    if kind is float and type(value) in {int, float} and math.isfinite(value):
        return float(value)
    if type(value) is not kind:
        allowed = _KINDS[kind] + (" or none" if may_be_none else "")
        raise ChoiceInvalid(
            f"{entry.source}: {name} must be {allowed}, not {json.dumps(value, ensure_ascii=False, default=str)}."
        )
    if kind is float:
        raise ChoiceInvalid(f"{entry.source}: {name} must be a finite number, not {value}.")
    return value


def _nearest_field(name: str) -> str:
    """The field meant by a wrong name, wherever it stands: by its own part of the name first, then by the whole."""
    own = name.rpartition(".")[2]
    if own in OTHER_NAMES:
        return OTHER_NAMES[own]

    def likeness(full: str) -> tuple[float, float]:
        return (
            difflib.SequenceMatcher(None, own, full.rpartition(".")[2]).ratio(),
            difflib.SequenceMatcher(None, name, full).ratio(),
        )

    return max(FIELDS, key=likeness)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    nearest: list[str] = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return nearest[0]


def _explain(problem: str, chosen: dict[str, Chosen]) -> str:
    """The problem with the full names of its fields, and who chose them."""
    named = [name for name in chosen if re.search(rf"\b{name.rpartition('.')[2]}\b", problem)]
    for name in named:
        problem = re.sub(rf"(?<![.\w]){name.rpartition('.')[2]}\b", name, problem, count=1)
    values = ", ".join(f"{name} is {chosen[name].value!r} by {chosen[name].source}" for name in named)
    return f"{problem}: {values}." if values else problem
