import subprocess
import sys
from pathlib import Path

import pytest

from ml.locks import AlreadyLocked, FolderBusy, FolderUnusable, exclusive, writing_in
from tests.ml.test_corpus import without_root

HOLD = """
import signal, sys
from pathlib import Path
from ml.locks import writing_in
with writing_in(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_a_folder_is_made_and_goes_again_where_nothing_came_into_it(tmp_path: Path) -> None:
    with writing_in(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with writing_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    with writing_in(tmp_path):
        pass
    assert tmp_path.is_dir()
    assert not any(tmp_path.iterdir())


def test_a_folder_is_held_until_its_holder_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderBusy, match=f"Another `fai` command is writing in {tmp_path}: wait"):
            writing_in(tmp_path).__enter__()
        holder.kill()
    with writing_in(tmp_path):
        pass


def test_what_can_be_no_folder_is_one_sentence(tmp_path: Path, open_folder: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FolderUnusable, match=f"{path} cannot be written"), writing_in(path):
            pass
    with without_root(), pytest.raises(FolderUnusable, match="Permission denied"), writing_in(open_folder / "x"):
        pass


def test_a_file_is_held_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path, wait=False), pytest.raises(AlreadyLocked), exclusive(path, wait=False):
        pass
    with exclusive(tmp_path / "lock", wait=True):
        pass
