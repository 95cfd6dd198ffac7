"""Each trouble that text from the web brings, built here, and what becomes of it."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import tokenizer
from ml.cleaning import HARMLESS_SEPARATOR, SEPARATOR, clean

AFTER = "The text after the trouble."
CODE = "```dart\nfinal  a = <int>[1];\t \n\n\n\n// [b](c) <br> {% x %} me@mail.com &lt; \x1b[0m e\u0301\n```\n"
QA = "[QUESTION]\nWhat is `Future<T>`?\n[/QUESTION]\n[ANSWER]\n## Summary\nA value to come.\n[/ANSWER]\n"


def markdown(text: str) -> str:
    return clean(text, kind="markdown").text


def reasons(text: str, kind: str = "markdown") -> set[str]:
    return set(clean(text, kind=kind).reasons)


def test_a_clean_document_stays_to_the_letter() -> None:
    cleaned = clean(QA, kind="markdown")
    assert cleaned.text == QA
    assert not cleaned.reasons


@pytest.mark.parametrize("kind", ["markdown", "plain", "restructured", "page"])
def test_question_and_answer_tags_survive(kind: str) -> None:
    text = clean(QA, kind=kind).text
    assert [tag for tag in tokenizer.SPECIAL_TOKENS[1:] if tag in text] == tokenizer.SPECIAL_TOKENS[1:]


@pytest.mark.parametrize("kind", ["markdown", "plain"])
def test_a_code_block_survives_to_the_letter(kind: str) -> None:
    assert CODE in clean(f"Before.\n\n{CODE}\n{AFTER}\n", kind=kind).text


def test_code_in_lists_quotes_and_indented_survives_to_the_letter() -> None:
    text = "- item\n\n  ```\n  a  <br>  \n  ```\n\n> ```\n> [b](c)  \n> ```\n\nPara.\n\n    indented <br> [x](y)  \n"
    cleaned = markdown(text)
    for code in ("  a  <br>  \n", "> [b](c)  \n", "    indented <br> [x](y)  \n"):
        assert code in cleaned


def test_a_longer_fence_holds_a_shorter_one() -> None:
    text = "````md\n```dart\nfoo <br>\n````\n"
    assert markdown(text) == text


def test_dart_changes_in_line_ends_alone() -> None:
    source = "// <br> [a](b) me@mail.com &lt;  \r\n\r\n\r\n\r\nfinal s = 'e\u0301\u200b\x1b[0m';\u2028\r\n"
    cleaned = clean(source, kind="code")
    assert cleaned.text == source.replace("\r\n", "\n")
    assert set(cleaned.reasons) == {"line-ends"}


def test_line_ends_of_all_systems_become_those_of_unix() -> None:
    assert markdown("a\r\nb\rc\n") == "a\nb\nc\n"
    assert reasons("a\r\n") == {"line-ends"}


def test_stray_separators_end_a_line() -> None:
    assert markdown("a\u2028b\u2029c\x85d\x0be\x0cf\n") == "a\nb\nc\nd\ne\nf\n"
    assert reasons("a\u2028b") == {"separators"}


def test_decomposed_letters_are_composed() -> None:
    assert markdown(unicodedata.normalize("NFD", "가족과 위젯")) == "가족과 위젯"
    assert reasons(unicodedata.normalize("NFD", "가족")) == {"nfc"}


def test_control_and_invisible_characters_go() -> None:
    assert markdown("a\x00b\x07c\u200bd\u00ade\ufefff\u202eg\n") == "abcdefg\n"
    assert markdown("no\u00a0break and \u3000wide\n") == "no break and  wide\n"
    assert markdown("👨\u200d👩\u200d👧 stays\n") == "👨\u200d👩\u200d👧 stays\n"


def test_front_matter_goes_and_its_title_stays() -> None:
    assert markdown('---\ntitle: "위젯 소개"\ntags:\n  - a\n---\n\nText.\n') == "# 위젯 소개\n\nText.\n"
    assert markdown("---\ntitle: A\n---\n# B\n") == "# B\n"


def test_unclosed_front_matter_takes_no_text_away() -> None:
    cleaned = clean(f"---\ntitle: A\nlayout: page\n\n{AFTER}\n\nNote: more.\n", kind="markdown")
    assert cleaned.text == f"# A\n\n{AFTER}\n\nNote: more.\n"
    assert set(cleaned.reasons) == {"front-matter-unclosed"}


def test_unclosed_front_matter_does_not_end_at_a_later_rule() -> None:
    assert AFTER in markdown(f"---\ntitle: A\n\n{AFTER}\n\n---\n\nEnd.\n")


def test_a_rule_at_the_top_is_no_front_matter() -> None:
    assert markdown(f"---\n\n{AFTER}\n\n---\nEnd.\n") == f"---\n\n{AFTER}\n\n---\nEnd.\n"


def test_an_unclosed_fence_takes_no_text_away() -> None:
    cleaned = clean(f"Text.\n\n```dart\nfinal a  = 1;\n\n{AFTER} [x](y)\n", kind="markdown")
    assert cleaned.text == f"Text.\n\n```dart\nfinal a  = 1;\n```\n\n{AFTER} x\n"
    assert cleaned.reasons["unclosed-fence"] == 1


def test_a_fence_that_meets_the_next_opening_was_unclosed() -> None:
    text = markdown(f"```dart\nfirst\n\n{AFTER} [x](y)\n\n```dart\nsecond <br>\n```\n")
    assert text == f"```dart\nfirst\n```\n\n{AFTER} x\n\n```dart\nsecond <br>\n```\n"


def test_an_unclosed_fence_at_the_end_is_closed() -> None:
    assert markdown("```\ncode") == "```\ncode\n```\n"


def test_tags_comments_and_scripts_go_and_their_text_stays() -> None:
    text = "<div class='a > b'>One<!-- not\nthis --> <b>two</b></div><script>if (a < b) {}</script>\n\n"
    text += "<Intro>\n\nThree\n\n</Intro>\n"
    assert markdown(text) == "One two\n\nThree\n"


def test_what_only_looks_like_a_tag_stays() -> None:
    text = "List<String>, Future<T?>, a < b > c, <T> and `<div>` and x <- y\n"
    assert markdown(text) == text


def test_entities_become_characters_and_never_markup() -> None:
    assert markdown("Q&amp;A List&lt;String&gt; a&nbsp;b\n") == "Q&A List<String> a b\n"
    assert markdown("&lt;div&gt; &amp;lt;\n") == "&lt;div> &amp;lt;\n"


@pytest.mark.parametrize(
    "opening", ["<!--", "<script>", "<style>", "<pre>", "<div", "{/*", "[", "![", "[x](", "`", "<a href='"]
)
def test_markup_that_is_never_closed_takes_no_text_away(opening: str) -> None:
    assert AFTER in markdown(f"Text. {opening} {AFTER}\n\nEnd.\n")


def test_preformatted_text_becomes_a_code_block_to_the_letter() -> None:
    text = markdown("Before.\n<pre><code>List&lt;int&gt;  a;\n\n\n\nme@mail.com</code></pre>\nAfter.\n")
    assert "```\nList<int>  a;\n\n\n\nme@mail.com\n```" in text


def test_a_page_becomes_markdown() -> None:
    page = "<html><head><title>T</title><style>p{}</style></head><body><h1>T</h1>"
    page += "<p>One\n  two</p><ul><li>a<li>b</ul></body>"
    assert clean(page, kind="page").text.split() == ["#", "T", "One", "two", "-", "a", "-", "b"]


def test_html_nested_thousands_deep_is_read() -> None:
    depth = 5_000
    text = f"{'<div><ul><li>' * depth}{AFTER}{'</li></ul></div>' * depth}\n"
    assert markdown(text).strip() == AFTER
    assert AFTER in clean(text, kind="page").text


def test_links_become_their_text() -> None:
    text = '[a](b), [`c`](d "e"), [f][g], [h][], [i] and [j][k] <https://x.dev>\n\n[g]: /1\n[H]: /2\n[i]: /3\n'
    assert markdown(text) == "a, `c`, f, h, i and [j][k] https://x.dev\n"
    assert markdown("[![A badge here](x.png)](y) ![icon.png](z) - [x] done\n") == "A badge here  - [x] done\n"


def test_brackets_nested_thousands_deep_are_read() -> None:
    text = "[ " * 20_000 + AFTER + " ](u)" * 20_000
    assert AFTER in markdown(text)


def test_the_syntax_of_site_generators_goes() -> None:
    text = "# A {:#b}\n\n## 가 {/*c*/}\n\n{% tabs %}\n\n:::tip 알림\nText.\n:::\n\n# E[[f]]\n"
    assert markdown(text) == "# A\n\n## 가\n\n알림\nText.\n\n# E\n"
    assert clean("import X from 'y';\n\nText.\n", kind="markdown", has_modules=True).text == "Text.\n"


def test_mojibake_among_right_text_is_restored() -> None:
    broken = "안녕하세요 위젯".encode().decode("sloppy-windows-1252")
    cleaned = clean(f"# 제목\n\n{broken}\n\nAsí…» dijo él.\n", kind="markdown")
    assert cleaned.text == "# 제목\n\n안녕하세요 위젯\n\nAsí…» dijo él.\n"
    assert set(cleaned.reasons) == {"mojibake"}


def test_a_terminal_log_loses_its_escape_codes_and_its_owner() -> None:
    log = "\x1b]0;title\x07\x1b[1;32mkim@mac\x1b[0m:~/app$ flutter run\n"
    log += "\x1b[2K\x1b[31mError\x1b[0m at /Users/kim/app/lib\n"
    cleaned = clean(log, kind="plain")
    assert cleaned.text == "[USER]@[HOST]:~/app$ flutter run\nError at /Users/[USER]/app/lib\n"
    assert set(cleaned.reasons) == {"escape-codes", "home-path"}


def test_an_unclosed_escape_code_takes_no_text_away() -> None:
    assert AFTER in clean(f"\x1b]0;{AFTER}\n\x1b[{AFTER}\n", kind="plain").text


def test_the_end_of_text_token_cannot_part_a_document() -> None:
    assert SEPARATOR == tokenizer.END_OF_TEXT
    for kind in ("markdown", "plain", "code", "page", "restructured"):
        cleaned = clean(f"a {SEPARATOR} b\n", kind=kind)
        assert cleaned.text == f"a {HARMLESS_SEPARATOR} b\n"
        assert cleaned.reasons["special-token"] == 1


def test_encoded_data_goes_and_long_prose_stays() -> None:
    prose = "이 문장은 한 줄로 길게 이어집니다. " * 1_000
    cleaned = clean(f"{'QUJD' * 1_000}\n\n{prose}{AFTER}\n", kind="markdown")
    assert cleaned.text == f"{prose}{AFTER}\n"
    assert cleaned.reasons["long-runs"] == 1


LENGTH = 200_000
"""Where a rule that takes the square of it would not end before the time limit."""
LONG_LINES = {
    "words": "word " * (LENGTH // 5),
    "one word": "가" * LENGTH,
    "spaces": " " * LENGTH + "x",
    "opening tags": "<a " * (LENGTH // 3),
    "opening quotes": '<a "' * (LENGTH // 4),
    "comments": "<!--" * (LENGTH // 4),
    "brackets": "[" * LENGTH,
    "links": "[a](" * (LENGTH // 4),
    "labels": "[a][" * (LENGTH // 4),
    "backticks": "".join("`" * (1 + number % 50) + " " for number in range(LENGTH // 25)),
    "entities": "&amp" * (LENGTH // 4),
    "escapes": "\x1b[" * (LENGTH // 2),
    "addresses": "a@" * (LENGTH // 2),
    "digits": "0" * LENGTH,
    "groups": "1." * (LENGTH // 2),
    "dashes": "0-" * (LENGTH // 2),
    "templates": "{%" * (LENGTH // 2),
    "colons": ":" * LENGTH,
    "mojibake": "ê°€" * (LENGTH // 10),
    "dots": "a." * (LENGTH // 2),
    "runs": ("x" * 999 + " ") * (LENGTH // 1_000),
    "fences": "".join(f"{'`' * (3 + number % 7)}x\n" for number in range(LENGTH // 10)),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["markdown", "page", "plain"])
@pytest.mark.parametrize("name", LONG_LINES)
def test_a_very_long_line_is_read_to_its_end(name: str, kind: str) -> None:
    assert AFTER in clean(f"{LONG_LINES[name]}\n\n{AFTER}\n", kind=kind).text


PIECES = st.sampled_from(
    [
        *(
            "가족 ",
            "word ",
            "\n",
            "\n\n",
            "- item\n",
            "# Head\n",
            "[a](b) ",
            "[c][] ",
            "![d e](f) ",
            "<b>x</b> ",
            "<br>",
        ),
        *("me@mail.com ", "\u00a0", "a\u0301 ", "**bold** ", "| a | b |\n", "> quote\n", "List<String> ", "&amp; "),
        *("  \n", "`co de` ", "{% x %}", ":::note\n"),
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join))
@settings(deadline=None)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = markdown(text)
    assert markdown(once) == once


CODE_LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n`~<|\0"), max_size=60)


@given(
    before=st.lists(PIECES, max_size=8).map("".join),
    lines=st.lists(CODE_LINES, max_size=8),
    after=st.lists(PIECES, max_size=8).map("".join),
)
@settings(deadline=None)
def test_fenced_code_survives_to_the_letter_among_anything(before: str, lines: list[str], after: str) -> None:
    block = "".join(f"{line}\n" for line in ["```dart", *lines, "```"])
    assert block in markdown(f"{before}\n\n{block}\n{after}")
