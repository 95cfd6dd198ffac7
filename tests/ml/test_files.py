import hashlib
from pathlib import Path

import pytest

from ml.files import READ_BYTES, replacing, sha256_file


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
