from pathlib import Path

import pytest

from ml.fetching import fetch, is_fetched
from ml.files import OutputExists
from ml.sources import SourceUnreachable
from tests.ml.make_sources import FILES, commit, git, make_git_source, make_hub_dataset, make_hub_source, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo")


def test_a_source_gets_a_folder_of_its_own_with_its_attribution(repo: Path, tmp_path: Path) -> None:
    source = make_git_source(repo, notice="Pictures are not taken.")
    folder = fetch(source, tmp_path / "raw")
    assert folder == tmp_path / "raw/mine"
    assert is_fetched(source, tmp_path / "raw")
    revision, date = git(repo, "log", "-1", "--format=%H %cs").split()
    assert (folder / "ATTRIBUTION.md").read_text(encoding="utf-8") == (
        "# mine\n\n"
        "- What: 문서\n"
        f"- Source: {repo.as_uri()}\n"
        f"- Revision: {revision}\n"
        f"- Date: {date}\n"
        "- Licence: MIT\n"
        "- Language: ko\n"
        "- Taken, unchanged: files that match `/docs/**/*.md`, `*.dart`\n"
        "- Notice: Pictures are not taken.\n"
        f"\n## LICENSE\n\n{FILES['LICENSE']}"
    )


def test_a_dataset_gets_one_too(tmp_path: Path) -> None:
    folder = fetch(make_hub_source(make_hub_dataset(tmp_path / "hub", ["하나", "둘", "셋"])), tmp_path / "raw")
    assert {path.name for path in folder.iterdir()} == {"ATTRIBUTION.md", "part-00000.jsonl"}
    attribution = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "- Licence: CC-BY-SA-3.0\n" in attribution
    assert "- Revision: a folder on this machine\n" in attribution


def test_nothing_stands_at_its_place_until_all_of_it_is_there(tmp_path: Path) -> None:
    source = make_git_source(tmp_path / "none")
    with pytest.raises(SourceUnreachable):
        fetch(source, tmp_path / "raw")
    assert not (tmp_path / "raw/mine").exists()
    assert not is_fetched(source, tmp_path / "raw")
    make_repo(tmp_path / "none")
    fetch(source, tmp_path / "raw")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["mine"]


def test_a_folder_that_is_there_is_replaced_only_by_force(repo: Path, tmp_path: Path) -> None:
    source = make_git_source(repo)
    fetch(source, tmp_path / "raw")
    (tmp_path / "raw/mine/own.md").write_text("of a person")
    commit(repo, {"docs/new.md": "new\n"})
    with pytest.raises(OutputExists, match="raw/mine exists already: add --force"):
        fetch(source, tmp_path / "raw")
    assert (tmp_path / "raw/mine/own.md").exists()
    folder = fetch(source, tmp_path / "raw", force=True)
    assert (folder / "docs/new.md").exists()
    assert not (folder / "own.md").exists()


def test_a_failed_replacement_leaves_what_was_there(repo: Path, tmp_path: Path) -> None:
    source = make_git_source(repo)
    fetch(source, tmp_path / "raw")
    repo.rename(tmp_path / "moved")
    with pytest.raises(SourceUnreachable):
        fetch(source, tmp_path / "raw", force=True)
    assert (tmp_path / "raw/mine/docs/index.md").exists()
