import hashlib
from pathlib import Path

import pytest

from ml.files import (
    READ_BYTES,
    OutputExists,
    partial_beside,
    remove_folder,
    remove_partials,
    replacing,
    require_free,
    sha256_file,
)


@pytest.mark.parametrize("size_bytes", [0, 1, READ_BYTES, READ_BYTES + 1])
def test_sha256_file_is_that_of_the_whole_content(tmp_path: Path, size_bytes: int) -> None:
    content = b"ab" * size_bytes
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_replacing_puts_the_new_content_in_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == tmp_path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_replacing_leaves_the_old_file_and_nothing_else_when_the_block_raises(
    tmp_path: Path, interruption: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise interruption

    with pytest.raises(type(interruption)):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_path_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"


def test_what_stands_at_a_results_place_is_replaced_only_by_force(tmp_path: Path) -> None:
    require_free(tmp_path / "free", force=False)
    require_free(tmp_path, force=True)
    with pytest.raises(OutputExists, match=f"{tmp_path} exists already: add --force to replace it"):
        require_free(tmp_path, force=False)


def test_a_folder_is_removed_with_what_is_read_only_and_not_through_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("kept")
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/object").touch(mode=0o400)
    (folder / "link").symlink_to(outside)
    (folder / "nowhere").symlink_to(tmp_path / "none")
    mode = outside.stat().st_mode
    remove_folder(folder)
    remove_folder(folder)
    assert not folder.exists()
    assert (outside.read_text(), outside.stat().st_mode) == ("kept", mode)


def test_what_a_killed_process_was_writing_goes_and_nothing_else(tmp_path: Path) -> None:
    partial_beside(tmp_path / "file").touch()
    (partial_beside(tmp_path / "folder") / "below").mkdir(parents=True)
    kept = {".mine.tmp", "file.tmp", ".file.partial"}
    for name in kept:
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
