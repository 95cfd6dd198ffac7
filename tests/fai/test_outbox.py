from pathlib import Path

from fai.outbox import DELTA_NAME, ENTRY_NAME, Outbox
from tests.fai.make import make_report


def add_entry(outbox: Outbox, attempt_id: int) -> None:
    (outbox.prepare(attempt_id) / DELTA_NAME).write_bytes(b"delta")
    outbox.add(attempt_id=attempt_id, sha256="ab" * 32, report=make_report())


def test_an_entry_is_found_by_the_next_run(tmp_path: Path) -> None:
    add_entry(Outbox(tmp_path), 7)
    (entry,) = Outbox(tmp_path).leftovers()
    assert (entry.attempt_id, entry.sha256, entry.report) == (7, "ab" * 32, make_report())
    assert entry.delta_path.read_bytes() == b"delta"


def test_leftovers_come_oldest_first(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for attempt_id in (10, 9, 100):
        add_entry(outbox, attempt_id)
    assert [entry.attempt_id for entry in outbox.leftovers()] == [9, 10, 100]


def test_what_never_became_an_entry_is_deleted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    (outbox.prepare(1) / DELTA_NAME).write_bytes(b"half")
    add_entry(outbox, 2)
    (tmp_path / "2" / DELTA_NAME).unlink()
    add_entry(outbox, 3)
    (tmp_path / "3" / ENTRY_NAME).write_text("{")
    assert outbox.leftovers() == []
    assert list(tmp_path.iterdir()) == []


def test_a_removed_entry_is_gone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    add_entry(outbox, 1)
    outbox.remove(1)
    outbox.remove(1)
    assert outbox.leftovers() == []


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Outbox(tmp_path / "none").leftovers() == []
