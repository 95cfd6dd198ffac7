"""What the commands have in common; what each does is tested beside it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def run_list(**options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "fai.cli", "fetch", "--list"], stderr=subprocess.PIPE, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it alone")
def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("wb") as full, run_list(stdout=full) as process:
        said = process.communicate()[1].decode()
    assert said.startswith("fai fetch: A file cannot be read or written (No space left on device): ")
    assert process.returncode == 2


def test_a_reader_that_goes_away_ends_the_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    with run_list(stdout=write) as process:
        os.close(write)
        said = process.communicate()[1]
    assert (process.returncode, said) == (141, b"")


def test_a_terminal_of_another_encoding_gets_escapes_for_what_it_lacks() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = subprocess.run(
        [sys.executable, "-m", "fai.cli", "prepare", "없는 폴더", "--out", "data"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert process.returncode == 2
    assert rb"There is no folder \uc5c6\ub294 \ud3f4\ub354: name one" in process.stderr
