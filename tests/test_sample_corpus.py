"""The sample corpus is a study set in the format that the model learns, each document written for itself."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
PATHS = sorted(SAMPLE.rglob("*.md"))
TAGS = ["[QUESTION]", "[/QUESTION]", "[ANSWER]", "[/ANSWER]"]
HEADINGS = {
    "en": ["## Summary", "## Learning checklist", "## Code example", "## Detailed explanation"],
    "ko": ["## 요약", "## 학습 체크리스트", "## 코드 예시", "## 상세 설명"],
}
LONG_LINE = 40


def test_there_are_enough_documents_and_about_half_are_korean() -> None:
    languages = Counter(path.parent.name for path in PATHS)
    assert languages.total() >= 150
    assert 0.4 <= languages["ko"] / languages.total() <= 0.6


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_document_has_every_part_in_its_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == unicodedata.normalize("NFC", text)
    lines = text.splitlines()
    assert [line for line in lines if line in TAGS] == TAGS
    headings = [line for line in lines if line.startswith("## ")]
    assert [heading for heading in headings if heading in HEADINGS[path.parent.name]] == HEADINGS[path.parent.name]
    assert "```dart" in lines
    assert text.count("```") % 2 == 0


def test_no_prose_is_a_template_that_was_filled_in() -> None:
    seen = Counter(
        line
        for path in PATHS
        for line in set(path.read_text(encoding="utf-8").split("```")[0].splitlines())
        if len(line) > LONG_LINE
    )
    assert [line for line, count in seen.items() if count > 1] == []
