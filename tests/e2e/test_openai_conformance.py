"""The openai package's own generated tests, unchanged, against the real service: see openai_generated/README.md."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.completion_service import MODEL, CompletionService
from tests.e2e.openai_proxy import proxying

pytestmark = pytest.mark.e2e
FOLDER = Path(__file__).parent / "openai_generated"
TESTS = {
    "tests/api_resources/test_completions.py": 40,
    "tests/api_resources/chat/test_completions.py": 40,
    "tests/api_resources/test_models.py": 55,
}
"""How many there are in each file; of chats, those that create one."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        CompletionService(tmp_path_factory.mktemp("conformance")) as service,
        proxying(service.url, key=service.keys["rich"], model=MODEL) as url,
    ):
        yield f"{url}/v1"
        assert service.evaluate("violations()") == "[]"


def run(path: str, *, url: str, report: Path) -> subprocess.CompletedProcess[str]:
    """The file's tests in a process of their own, whose package `tests` is not ours."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", path, "-q", "-W", "error", "-c", os.devnull),
            *("--rootdir", str(FOLDER), "--confcutdir", str(FOLDER)),
            *("-p", "no:django", "-p", "no:xdist", "-p", "no:cacheprovider", f"--junitxml={report}"),
            *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=session"),
            *("-o", "asyncio_default_test_loop_scope=session"),
            *(["-k", "create"] if "/chat/" in path else []),
        ],
        cwd=FOLDER,
        env={**os.environ, "TEST_API_BASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.parametrize("path", TESTS)
def test_the_generated_tests_pass(path: str, url: str, tmp_path: Path) -> None:
    done = run(path, url=url, report=tmp_path / "report.xml")
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0].attrib
    assert int(suite["tests"]) == TESTS[path]
    assert (suite["failures"], suite["errors"], suite["skipped"]) == ("0", "0", "0")


def test_there_are_135_generated_tests_of_the_version_that_is_installed() -> None:
    assert sum(TESTS.values()) == 135
    assert f"`openai` {importlib.metadata.version('openai')} " in (FOLDER / "README.md").read_text(encoding="utf-8")
