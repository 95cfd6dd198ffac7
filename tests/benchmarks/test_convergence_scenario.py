from pathlib import Path

import pytest

from benchmarks.convergence import goals, report, scenario
from benchmarks.convergence.scenario import ScenarioInvalid

WHOLE = """
title = "whole"
[model]
vocab_size = 300
block_size = 16
n_layer = 1
n_head = 2
n_kv_head = 2
n_embd = 16
[inner]
batch_tokens = 32
[rules]
num_rounds = 2
round_tokens = 128
round_min_tokens = 64
round_seconds = 60.0
job_seconds = 1.0
[[devices]]
count = 3
tokens_per_second = 32
[[devices]]
tokens_per_second = 64
attack = "nan"
"""


def read(folder: Path, text: str, *, name: str = "small") -> scenario.Scenario:
    (folder / "whole.toml").write_text(WHOLE)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return scenario.read(path)


def test_groups_become_devices_and_the_file_gives_the_name(tmp_path: Path) -> None:
    made = read(tmp_path, WHOLE)
    assert made.name == "small"
    assert [device.tokens_per_second for device in made.devices] == [32, 32, 32, 64]
    assert [device.attack for device in made.devices] == ["", "", "", "nan"]
    assert made.num_tokens == 256


def test_a_file_that_extends_another_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    made = read(
        tmp_path, 'extends = "whole"\ncodec = "int4"\n[rules]\nnum_rounds = 5\n[[devices]]\ntokens_per_second = 9'
    )
    assert (made.codec, made.rules.num_rounds, made.rules.round_tokens, made.title) == ("int4", 5, 128, "whole")
    assert len(made.devices) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("surprise = 1", "surprise"),
        ('kind = "other"', "kind"),
        ('codec = "zip"', "codec"),
        ("[rules]\nround_min_tokens = 1000", "round_min_tokens"),
        ("[rules]\nround_token = 1", "round_token"),
        ("[model]\nn_head = 3", "n_embd"),
        ("[inner]\nspeed = 1", "speed"),
        ('[[devices]]\ntokens_per_second = 1\nattack = "rude"', "attack"),
        ("[[devices]]\ntokens_per_second = 0", "speeds"),
        ("[[devices]]\ntokens_per_second = 1\nlost_share = 1.0", "shares"),
        ("codec = ", "small.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ScenarioInvalid, match=named):
        read(tmp_path, f'extends = "whole"\n{text}')


def test_every_scenario_of_the_repository_can_be_read_and_every_goal_and_plot_has_its_scenarios() -> None:
    names = {one.name for one in scenario.read_all()}
    asked = {name for goal in goals.GOALS for name in (goal.scenario, getattr(goal, "against", goal.scenario))}
    assert asked | {*report.COSTS, *report.ATTACKED} <= names
    assert not any(name.startswith("_") for name in names)


def test_a_scenario_that_is_not_there_is_named() -> None:
    with pytest.raises(ScenarioInvalid, match="nowhere"):
        scenario.read_all(["nowhere"])
