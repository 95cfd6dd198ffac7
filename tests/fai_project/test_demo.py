"""What the demo says before it starts anything."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fai_project import demo


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def refusal(capsys: pytest.CaptureFixture[str], corpus: Path = demo.ROOT / "data" / "sample") -> str:
    assert demo.main(["--exit", "--corpus", str(corpus)]) == 2
    return capsys.readouterr().err


def test_a_disk_that_is_nearly_full_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "LEAST_FREE_BYTES", 2**80)
    assert refusal(capsys).endswith("are needed: free some.\n")
    assert list((root / ".state").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".state").touch()
    assert refusal(capsys).startswith(f"demo: {root / '.state'} cannot be written (")


def test_a_corpus_that_is_not_there_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, root / "nowhere").startswith(f"demo: There is no folder {root / 'nowhere'}")
    assert list(root.iterdir()) == []
