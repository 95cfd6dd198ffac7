"""What the commands have in common; what each does is tested beside it."""

import sys
from pathlib import Path

import pytest

from fai.cli import main
from fai.learner import command
from tests.ml.make_sources import make_hub_dataset


def test_a_missing_package_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "sources.toml"
    hub = make_hub_dataset(tmp_path / "hub", ["one"])
    listed.write_text(f'[wiki]\nwhat = "x"\nlanguage = "ko"\nlicence = "MIT"\ndataset = "{hub.as_posix()}"\n')
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "ml.hub_download", raising=False)
    assert main(["fetch", "wiki", "--out", str(tmp_path / "raw"), "--sources", str(listed)]) == 2
    assert capsys.readouterr().err == (
        "fai fetch: the package datasets is missing: run `pip install 'fai[learn]'`.\nMore: docs/faq/commands.md\n"
    )


def test_a_missing_module_of_ours_is_a_fault_and_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.COMMANDS, "none", "a command without a module")
    with pytest.raises(ModuleNotFoundError, match=r"fai\.learner\.none"):
        main(["none"])


@pytest.mark.parametrize("name", ["fetch", "tokenizer", "dataset"])
def test_help_says_what_the_command_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: fai {name} " in capsys.readouterr().out
