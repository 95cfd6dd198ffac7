import random
from pathlib import Path

import pytest

from ml.duplicates import Seen, fingerprint, sketch


def words(count: int, *, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [f"낱말{source.randrange(10_000)}" for _ in range(count)]


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path / "seen.sqlite")


def add(seen: Seen, name: str, text: str) -> None:
    seen.add(name=name, fingerprint=fingerprint(text), sketch=sketch(text))


def test_the_same_words_in_other_white_space_are_the_same(seen: Seen) -> None:
    with seen:
        add(seen, "a", "one two\n\nthree")
        assert seen.find_same(fingerprint("one  two three\n")) == "a"
        assert seen.find_same(fingerprint("one two four")) is None


def test_a_document_with_some_other_words_is_near_and_one_with_many_is_not(seen: Seen) -> None:
    text = words(1_000)
    with seen:
        add(seen, "a", " ".join(text))
        assert seen.find_near(sketch(" ".join(["new", *text[:980]]))) == "a"
        assert seen.find_near(sketch(" ".join(text[:500] + words(500, seed=1)))) is None


def test_the_nearest_of_several_is_named(seen: Seen) -> None:
    text = words(1_000)
    with seen:
        add(seen, "far", " ".join(text[:880]))
        add(seen, "near", " ".join(text[:990]))
        assert seen.find_near(sketch(" ".join(text))) == "near"


def test_short_documents_are_never_near(seen: Seen) -> None:
    with seen:
        add(seen, "a", " ".join(words(20)))
        assert seen.find_near(sketch(" ".join(words(20)))) is None


def test_lines_are_known_once_they_were_added(seen: Seen) -> None:
    with seen:
        seen.add_lines([1, -2, 1])
        assert seen.find_lines([1, -2, 3]) == {1, -2}
        assert seen.find_lines(range(-2, 2_000)) == {1, -2}


def test_a_sketch_is_the_same_in_every_process_and_on_every_machine() -> None:
    assert sketch(" ".join(words(50)))[:8].hex() == "9fdd448a48956944"
