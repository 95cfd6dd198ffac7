import os
import resource
from pathlib import Path

import pytest

from fai import __version__
from fai.cli import main
from fai.credentials import load_credentials
from tests.fai.coordinator import API_KEY, Coordinator, Problem
from tests.fai.make import make_experiment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("FAI_", "LC_")) or name == "LANG":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FAI_CONFIG_DIR", str(tmp_path))


@pytest.fixture
def experiments(coordinator: Coordinator) -> Coordinator:
    coordinator.experiments = {"tiny": make_experiment(), "old": {**make_experiment(state="finished"), "slug": "old"}}
    return coordinator


def test_join_stores_the_key_and_shows_it_once(
    experiments: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["join", experiments.url, "--name", "내 컴퓨터", "--experiment", "tiny"]) == 0
    assert capsys.readouterr().out.count(API_KEY) == 1
    stored = load_credentials(tmp_path, experiments.url)
    assert stored is not None
    assert (stored.api_key, stored.nickname, stored.experiment) == (API_KEY, "내 컴퓨터", "tiny")


def test_join_again_changes_the_experiment_and_makes_no_second_contributor(
    experiments: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", experiments.url, "--name", "mina"])
    capsys.readouterr()
    assert main(["join", experiments.url, "--name", "mina", "--experiment", "tiny"]) == 0
    assert experiments.num_requests("POST", "contributors") == 1
    assert API_KEY not in capsys.readouterr().out
    stored = load_credentials(tmp_path, experiments.url)
    assert stored is not None
    assert stored.experiment == "tiny"


def test_join_under_another_name_is_refused(experiments: Coordinator, capsys: pytest.CaptureFixture[str]) -> None:
    main(["join", experiments.url, "--name", "mina"])
    assert main(["join", experiments.url, "--name", "minsu"]) == 1
    assert "as mina already; set FAI_CONFIG_DIR" in capsys.readouterr().err


def test_join_under_another_name_replaces_a_key_that_is_refused(
    experiments: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", experiments.url, "--name", "mina"])

    def refuse(method: str, path: str) -> None:
        if path == "me":
            raise Problem(401, "key_revoked")

    experiments.hook = refuse
    assert main(["join", experiments.url, "--name", "minsu"]) == 0
    stored = load_credentials(tmp_path, experiments.url)
    assert stored is not None
    assert stored.nickname == "minsu"


def test_join_takes_no_name_where_its_key_could_not_be_stored(
    experiments: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, limits[1]))
    try:
        assert main(["join", experiments.url, "--name", "mina"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    assert "free some space, or set FAI_CONFIG_DIR" in capsys.readouterr().err
    assert experiments.num_requests("POST", "contributors") == 0


def test_join_passes_on_why_the_name_cannot_be_had(
    experiments: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hook(method: str, path: str) -> None:
        if path == "contributors":
            raise Problem(409, "nickname_taken")

    experiments.hook = hook
    assert main(["join", experiments.url, "--name", "mina"]) == 1
    assert capsys.readouterr().err == "The coordinator refuses: test: nickname_taken\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("slug", "words"), [("none", "has no experiment 'none'; it has: tiny."), ("old", "'old' is finished; choose")]
)
def test_join_for_an_experiment_without_work_is_refused_before_a_name_is_taken(
    experiments: Coordinator, capsys: pytest.CaptureFixture[str], slug: str, words: str
) -> None:
    assert main(["join", experiments.url, "--name", "mina", "--experiment", slug]) == 2
    assert words in capsys.readouterr().err
    assert experiments.num_requests("POST", "contributors") == 0


def test_join_of_an_address_where_nobody_answers_is_one_sentence(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fai.joining.JOIN_PATIENCE_SECONDS", 0.1)
    coordinator.stop()
    assert main(["join", coordinator.url, "--name", "mina"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{coordinator.url} cannot be reached (")
    assert error.count("\n") == 1


def test_join_without_a_name_asks_for_one_in_the_language_of_the_volunteer(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["join", coordinator.url, "--lang", "ko"]) == 2
    assert capsys.readouterr().err == "--name 옵션으로 이름을 알려 주십시오.\n"


def test_a_worker_without_a_key_and_a_name_says_what_to_do(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "--server", coordinator.url]) == 2
    assert "--name" in capsys.readouterr().err


def test_status_shows_credits_and_movements(experiments: Coordinator, capsys: pytest.CaptureFixture[str]) -> None:
    main(["join", experiments.url, "--name", "mina"])
    capsys.readouterr()
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"mina at {experiments.url}: 12 credits available, 0 held, 3 in escrow."
    assert lines[2].split() == ["2026-05-01T12:00:00", "+12", "earn", "attempt:1"]


def test_status_without_a_key_says_how_to_join(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert "fai join" in capsys.readouterr().err


def test_a_further_key_is_shown_once(experiments: Coordinator, capsys: pytest.CaptureFixture[str]) -> None:
    main(["join", experiments.url, "--name", "mina"])
    capsys.readouterr()
    assert main(["key"]) == 0
    assert capsys.readouterr().out == "New key, shown this once: fai_sk_more\n"
    assert main(["key", "--lend", "500"]) == 0
    mine, lent = experiments.wanted_keys
    assert mine == {"name": "fai key", "scopes": ["completion"]}
    assert lent == {**mine, "is_shared": True, "credit_cap": 500, "cap_period": "week"}


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fai {__version__}\n"
