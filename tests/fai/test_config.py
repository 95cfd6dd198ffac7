import os
from pathlib import Path

import pytest

from fai.config import normalize_url, read_options, worker_config
from fai.credentials import Credentials, save_credentials
from fai.stop import Stop


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("FAI_", "LC_")) or name == "LANG":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FAI_CONFIG_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://fai.example.org/", "https://fai.example.org"),
        ("https://fai.example.org/api/v1/", "https://fai.example.org"),
        ("https://example.org/fai", "https://example.org/fai"),
        ("fai.example.org", "https://fai.example.org"),
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" http://[::1]:8000 ", "http://[::1]:8000"),
    ],
)
def test_a_url_is_normalized(text: str, url: str) -> None:
    assert normalize_url(text) == url


@pytest.mark.parametrize(
    "text", ["ftp://example.org", "https://", "", "file:///etc", "http://[::1", "[", "http://a:99999", "http://a:b"]
)
def test_what_is_no_web_address_is_refused_with_exit_code_2(text: str) -> None:
    with pytest.raises(Stop) as caught:
        normalize_url(text)
    assert caught.value.exit_code == 2


def test_the_command_line_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAI_EXPERIMENT", "from-environment")
    monkeypatch.setenv("FAI_DEVICE", "attic")
    options = read_options({"EXPERIMENT": "from-command", "DEVICE": None})
    assert (options.experiment, options.device_name) == ("from-command", "attic")


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "FAI_LANG": "en"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_follows_the_locale(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_options().language == language


@pytest.mark.parametrize(("name", "value"), [("FAI_THREADS", "0"), ("FAI_THREADS", "many"), ("FAI_CACHE_GIB", "-1")])
def test_a_number_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Stop, match=name):
        read_options()


def test_a_worker_uses_the_coordinator_that_was_joined_last(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_credentials(
            tmp_path,
            Credentials(
                server_url=f"https://{name}.example.org", api_key=f"key-{name}", nickname="mina", experiment=name
            ),
        )
    config = worker_config(read_options())
    assert (config.server_url, config.api_key, config.experiment) == ("https://two.example.org", "key-two", "two")
    assert config.was_joined


def test_the_environment_alone_is_enough_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAI_SERVER_URL", "https://fai.example.org")
    monkeypatch.setenv("FAI_API_KEY", "secret")
    config = worker_config(read_options())
    assert (config.server_url, config.api_key, config.was_joined) == ("https://fai.example.org", "secret", False)


def test_a_worker_without_a_key_says_how_to_join() -> None:
    with pytest.raises(Stop, match="fai join"):
        worker_config(read_options())
