import errno
from pathlib import Path

import pytest

from ml.export.folder import RECORD_FILE, OutputTaken, OutputUnwritable, building


def write_export(out: Path, text: str, *, force: bool = False) -> None:
    with building(out, force=force) as folder:
        (folder / RECORD_FILE).write_text(text)
        (folder / text).write_text("")


def test_a_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    out = tmp_path / "a/b"
    with building(out, force=False) as folder:
        (folder / "file").write_text("")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["file"]
    assert list(out.parent.iterdir()) == [out]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "D").mkdir()
    write_export(tmp_path / "D", "one")
    assert (tmp_path / "D/one").exists()


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    write_export(tmp_path / "D", "one")
    with pytest.raises(KeyboardInterrupt), building(tmp_path / "D", force=True):
        raise KeyboardInterrupt
    assert (tmp_path / "D/one").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "D"]


def test_an_export_is_replaced_by_force_alone(tmp_path: Path) -> None:
    write_export(tmp_path / "D", "one")
    with pytest.raises(OutputTaken, match="--force"):
        write_export(tmp_path / "D", "two")
    write_export(tmp_path / "D", "two", force=True)
    assert {path.name for path in (tmp_path / "D").iterdir()} == {RECORD_FILE, "two"}
    assert list(tmp_path.iterdir()) == [tmp_path / "D"]


def test_what_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name in ("photos", "file", "link"):
        with pytest.raises(OutputTaken, match=name):
            write_export(tmp_path / name, "one", force=True)
    assert (tmp_path / "photos/1.jpg").exists()


def test_a_place_that_takes_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="file/D could not be written"):
        write_export(tmp_path / "file/D", "one")


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputUnwritable, match="No space left"), building(tmp_path / "D", force=False):
        raise full
    assert not list(tmp_path.iterdir())


def test_a_relative_path_without_a_name_is_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "D").mkdir()
    monkeypatch.chdir(tmp_path / "D")
    write_export(Path(), "one")
    assert (tmp_path / "D/one").exists()
