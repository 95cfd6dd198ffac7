import stat
from pathlib import Path

import pytest

from fai.credentials import FILE_NAME, Credentials, load_credentials, save_credentials
from fai.stop import Stop


def make_credentials(server_url: str = "https://one.example.org") -> Credentials:
    return Credentials(server_url=server_url, api_key="secret", nickname="내 컴퓨터", experiment=None)


def test_credentials_come_back_as_they_were_saved(tmp_path: Path) -> None:
    save_credentials(tmp_path / "new", make_credentials())
    assert load_credentials(tmp_path / "new", "https://one.example.org") == make_credentials()


def test_the_file_is_readable_by_its_owner_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    save_credentials(tmp_path, make_credentials())
    save_credentials(tmp_path, make_credentials("https://two.example.org"))
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_each_coordinator_has_its_own_key(tmp_path: Path) -> None:
    save_credentials(tmp_path, make_credentials())
    save_credentials(tmp_path, make_credentials("https://two.example.org"))
    assert load_credentials(tmp_path, "https://one.example.org") == make_credentials()
    assert load_credentials(tmp_path, "https://three.example.org") is None


def test_a_folder_without_credentials_has_none(tmp_path: Path) -> None:
    assert load_credentials(tmp_path, None) is None


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_a_broken_file_is_named_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(Stop, match=FILE_NAME):
        save_credentials(tmp_path, make_credentials())
    assert (tmp_path / FILE_NAME).read_text() == content


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Stop, match=r"FAI_CONFIG_DIR|join again"):
        save_credentials(tmp_path / "file" / "config", make_credentials())
