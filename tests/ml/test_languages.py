import pytest

from ml.languages import JUDGED_CHARACTERS, language_of

FENCED = "```dart\nvoid main() => runApp(const MaterialApp(home: Text('hello')));\n```\n"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("위젯은 화면을 이루는 부품이에요.", "ko"),
        ("StatefulWidget의 setState를 부르면 다시 build 됩니다", "ko"),
        ("A widget is one of the parts of a screen, 부품.", "en"),
        ("Les éléments de l'écran se redessinent.", "en"),
        ("ウィジェットは画面の部品です。", "other"),
        ("1 2 3 --- !!!", "other"),
        ("", "other"),
    ],
)
def test_the_letters_decide(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("path", ["lib/main.dart", "site/lib/main.dart.txt", "MAIN.DART.TXT", "tutorial.py"])
def test_a_source_file_is_code_whatever_its_comments_say(path: str) -> None:
    assert language_of("// 한국어로 길게 쓴 주석이 있는 파일", path=path) == "code"


@pytest.mark.parametrize("path", ["readme.md.txt", "dart.txt", "notes"])
def test_a_document_is_no_code_by_its_name(path: str) -> None:
    assert language_of("한국어 문서", path=path) == "ko"


def test_a_text_that_is_mostly_fenced_code_is_code() -> None:
    assert language_of("짧은 설명\n\n" + FENCED) == "code"
    assert language_of("A short line.\n\n~~~\n" + "x = 1\n" * 20 + "~~~\n") == "code"
    assert language_of("never closed\n```\n" + "x = 1\n" * 20) == "code"


def test_fenced_code_does_not_count_against_the_prose_around_it() -> None:
    assert language_of("코드보다 설명이 더 긴 글이에요. " * 10 + "\n" + FENCED) == "ko"


def test_only_the_beginning_is_judged() -> None:
    assert language_of("word " * (JUDGED_CHARACTERS // 5 + 1) + "한글 " * 100_000) == "en"
