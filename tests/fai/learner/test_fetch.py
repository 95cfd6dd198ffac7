from pathlib import Path

import pytest

from fai.cli import main
from tests.ml.make_sources import make_hub_dataset, make_repo


@pytest.fixture
def listed(tmp_path: Path) -> list[str]:
    """Arguments that name a list of two sources on this machine."""
    repo = make_repo(tmp_path / "repo")
    hub = make_hub_dataset(tmp_path / "hub", ["하나", "둘", "셋"])
    path = tmp_path / "sources.toml"
    path.write_text(
        f'[docs]\nwhat = "문서"\nlanguage = "ko"\nlicence = "MIT"\nrepo = "{repo.as_uri()}"\npaths = ["*.md"]\n'
        f'[wiki]\nwhat = "백과"\nlanguage = "ko"\nlicence = "CC-BY-SA-3.0"\ndataset = "{hub.as_posix()}"\n',
        encoding="utf-8",
    )
    return ["--sources", str(path), "--out", str(tmp_path / "raw")]


def test_sources_are_fetched_and_the_next_commands_named(
    listed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "docs", "wiki", *listed]) == 0
    raw = tmp_path / "raw"
    assert {path.name for path in raw.iterdir()} == {"docs", "wiki"}
    assert capsys.readouterr().out.splitlines() == [
        f"docs: fetched into {raw}/docs, under MIT.",
        f"wiki: fetched into {raw}/wiki, under CC-BY-SA-3.0.",
        f"Next: fai prepare {raw} --out DATA",
    ]


def test_what_is_there_is_left_alone(listed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fetch", "docs", *listed])
    mark = tmp_path / "raw/docs/mark.md"
    mark.touch()
    capsys.readouterr()
    assert main(["fetch", "docs", *listed]) == 0
    assert capsys.readouterr().out.startswith(f"docs: in {tmp_path}/raw/docs already.\n")
    assert mark.exists()
    assert main(["fetch", "docs", *listed, "--force"]) == 0
    assert not mark.exists()


def test_a_source_out_of_reach_is_named_and_what_came_before_it_is_kept(
    listed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "repo").rename(tmp_path / "moved")
    assert main(["fetch", "wiki", "docs", *listed]) == 2
    error = capsys.readouterr().err
    assert "docs could not be fetched from file://" in error
    assert "what is done is kept" in error
    assert error.endswith("run the same command again.\nMore: docs/faq/data.md\n")
    assert [path.name for path in (tmp_path / "raw").glob("[!.]*")] == ["wiki"]
    (tmp_path / "moved").rename(tmp_path / "repo")
    assert main(["fetch", "wiki", "docs", *listed]) == 0


def test_list_shows_every_source_on_a_line(listed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--list", *listed]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name  kind          language  licence       what",
        "docs  git           ko        MIT           문서",
        "wiki  Hugging Face  ko        CC-BY-SA-3.0  백과",
    ]


def test_an_unknown_name_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "flutter-websit", "--out", str(tmp_path)]) == 2
    assert "did you mean 'flutter-website'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dart-site"], ["--out", "raw"]])
def test_a_name_and_a_folder_are_needed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", *arguments]) == 2
    assert "`fai fetch NAME --out RAW`" in capsys.readouterr().err
