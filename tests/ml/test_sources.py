from pathlib import Path
from typing import Any

import pytest

from ml.sources import GitSource, HubSource, SourceInvalid, choose, read_sources

GIT = 'what = "documents"\nlanguage = "ko"\nlicence = "MIT"\nrepo = "https://example.org/x"\npaths = ["*.md"]\n'
SPDX = {"MIT", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0"}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "목록.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_listed_sources_can_be_read_and_are_in_both_languages() -> None:
    sources = list(read_sources().values())
    assert len(sources) > 40
    assert {source.language for source in sources} == {"ko", "en", "code"}
    assert {type(source) for source in sources} == {GitSource, HubSource}


@pytest.mark.parametrize("source", read_sources().values(), ids=lambda source: source.name)
def test_a_listed_source_has_a_licence_that_spdx_knows(source: Any) -> None:
    names = set(source.licence.replace(" AND ", " OR ").split(" OR "))
    assert names <= SPDX


def test_a_source_of_ones_own_needs_only_its_lines(tmp_path: Path) -> None:
    source = read_sources(write(tmp_path, "[mine]\n" + GIT))["mine"]
    assert isinstance(source, GitSource)
    assert (source.name, source.paths, source.ref) == ("mine", ["*.md"], "HEAD")


def test_chosen_sources_come_in_the_order_asked_for_and_once() -> None:
    chosen = choose(read_sources(), ["vue-ko", "dart-site", "vue-ko"])
    assert [source.name for source in chosen] == ["vue-ko", "dart-site"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SourceInvalid, match="no source 'fluter-website': did you mean 'flutter-website'"):
        choose(read_sources(), ["fluter-website"])


def test_an_empty_list_has_no_nearest_name() -> None:
    with pytest.raises(SourceInvalid, match="no source 'x': `fai fetch --list` shows all"):
        choose({}, ["x"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[mine", "is no TOML"),
        ("mine = 3", r"\[mine\] is no table"),
        ('["../up"]\n' + GIT, "a name is a folder's"),
        ("[mine]\n" + GIT + 'licens = "MIT"\n', "a key 'licens': did you mean 'licence'"),
        ("[mine]\n" + GIT.replace("licence", "notice"), "has no 'licence'"),
        ("[mine]\n" + GIT.replace('["*.md"]', '"*.md"'), r"paths is '\*\.md': write a list of texts"),
        ("[mine]\n" + GIT.replace('["*.md"]', "[]"), "write a list of texts"),
        ("[mine]\n" + GIT.replace('["*.md"]', "[3]"), "write a list of texts"),
        ("[mine]\n" + GIT.replace('"ko"', "3"), "language is 3: write a text"),
    ],
)
def test_a_wrong_list_names_the_file_and_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SourceInvalid, match=problem) as error:
        read_sources(write(tmp_path, text))
    assert "목록.toml" in str(error.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceInvalid, match=r"none\.toml cannot be read"):
        read_sources(tmp_path / "none.toml")
