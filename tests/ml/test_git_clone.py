import subprocess
from pathlib import Path

import pytest

from ml.git_clone import clone
from ml.sources import SourceInvalid, SourceUnreachable
from tests.ml.make_sources import FILES, commit, git, make_git_source, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo")


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_the_files_that_match_are_taken_unchanged_and_nothing_else(repo: Path, tmp_path: Path) -> None:
    clone(make_git_source(repo), tmp_path / "out")
    assert files_in(tmp_path / "out") == {"docs/ko/위젯.md", "docs/index.md", "lib/main.dart"}
    assert (tmp_path / "out/docs/ko/위젯.md").read_bytes() == FILES["docs/ko/위젯.md"].encode()


def test_a_pattern_with_an_exclamation_mark_leaves_out(repo: Path, tmp_path: Path) -> None:
    clone(make_git_source(repo, paths=["*.md", "!/docs/ko/**"]), tmp_path / "out")
    assert files_in(tmp_path / "out") == {"docs/index.md"}


def test_the_revision_its_date_and_the_licence_are_told(repo: Path, tmp_path: Path) -> None:
    taken = clone(make_git_source(repo), tmp_path / "out")
    assert [taken.revision, taken.date] == git(repo, "log", "-1", "--format=%H %cs").split()
    assert taken.licence_texts == {"LICENSE": FILES["LICENSE"]}


def test_a_branch_can_be_named(repo: Path, tmp_path: Path) -> None:
    git(repo, "branch", "older")
    commit(repo, {"docs/new.md": "new\n"})
    clone(make_git_source(repo, ref="older"), tmp_path / "out")
    assert not (tmp_path / "out/docs/new.md").exists()


def test_only_what_is_wanted_of_the_last_commit_is_downloaded(repo: Path, tmp_path: Path) -> None:
    commit(repo, {"docs/index.md": "# Widgets, second edition\n"})
    trace = tmp_path / "trace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_TRACE_PACKET", str(trace))
        clone(make_git_source(repo), tmp_path / "out")
    asked = trace.read_text(encoding="utf-8", errors="replace")
    assert "> deepen 1" in asked
    assert "> filter blob:none" in asked
    unwanted = git(repo, "rev-parse", "HEAD:docs/picture.svg").strip()
    wanted = git(repo, "rev-parse", "HEAD:docs/index.md").strip()
    assert f"> want {wanted}" in asked
    assert f"> want {unwanted}" not in asked


def test_an_interrupted_clone_begins_anew(repo: Path, tmp_path: Path) -> None:
    left = tmp_path / "out"
    clone(make_git_source(repo), left)
    git(left, "init", "--quiet")
    (left / ".git/index.lock").touch()
    (left / "stale.md").write_text("of another revision")
    clone(make_git_source(repo), left)
    assert files_in(left) == {"docs/ko/위젯.md", "docs/index.md", "lib/main.dart"}


def test_a_git_that_calls_us_keeps_its_own_repository(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = make_repo(tmp_path / "callers", {"a.md": "a\n"})
    before = (callers / ".git/config").read_bytes()
    monkeypatch.setenv("GIT_DIR", str(callers / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(callers / ".git/index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(callers))
    clone(make_git_source(repo), tmp_path / "out")
    assert (callers / ".git/config").read_bytes() == before
    assert files_in(tmp_path / "out") == {"docs/ko/위젯.md", "docs/index.md", "lib/main.dart"}
    assert (callers / "a.md").exists()


def test_links_are_not_taken(repo: Path, tmp_path: Path) -> None:
    (repo / "docs/outside.md").symlink_to("/etc/hostname")
    (repo / "docs/here").symlink_to(".")
    commit(repo, {})
    clone(make_git_source(repo, paths=["/docs/**"]), tmp_path / "out")
    assert files_in(tmp_path / "out") == {"docs/ko/위젯.md", "docs/index.md", "docs/picture.svg"}


def test_paths_that_match_nothing_are_told(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceInvalid, match=r"mine: .* has no file that matches its paths"):
        clone(make_git_source(repo, paths=["/none/*.md"]), tmp_path / "out")


def test_a_repository_that_is_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    source = make_git_source(tmp_path / "none")
    with pytest.raises(SourceUnreachable, match=r"mine could not be fetched from file://.*run the same command again"):
        clone(source, tmp_path / "out")


def test_without_git_its_installation_is_asked_for(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        subprocess.run(["git"], check=False)
    with pytest.raises(SourceUnreachable, match="install git"):
        clone(make_git_source(repo), tmp_path / "out")
