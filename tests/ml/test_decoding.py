import codecs
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.decoding import NotText, decode, restore_mojibake

KOREAN = "위젯은 화면의 한 부분입니다. 전정과 제목 · “Flutter” 셋째 줄\n다음 줄도 한국어로 씁니다.\n"
ENGLISH = "A widget is a part of the screen.\nNext line.\n"


def mojibake(text: str, encoding: str = "sloppy-windows-1252") -> str:
    return text.encode().decode(encoding)


@pytest.mark.parametrize("text", [KOREAN, ENGLISH])
@pytest.mark.parametrize(
    ("mark", "encoding", "reason"),
    [
        (codecs.BOM_UTF8, "utf-8", "bom"),
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32"),
        (b"", "utf-16-le", "utf-16"),
        (b"", "utf-16-be", "utf-16"),
    ],
)
def test_unicode_in_any_width_is_read(text: str, mark: bytes, encoding: str, reason: str) -> None:
    decoded = decode(mark + text.encode(encoding))
    assert decoded.text == text
    assert decoded.reasons == Counter({reason: 1})


def test_cp949_is_read() -> None:
    decoded = decode(KOREAN.replace("“Flutter”", "Flutter").encode("cp949"))
    assert decoded.text == KOREAN.replace("“Flutter”", "Flutter")
    assert decoded.reasons == Counter({"cp949": 1})


def test_cp949_with_a_broken_byte_is_still_read() -> None:
    decoded = decode("한국어 문서의 첫 줄입니다.\n".encode("cp949") * 20 + b"\xff\n" + b"end\n")
    assert decoded.text.count("한국어 문서의 첫 줄입니다.") == 20
    assert decoded.text.endswith("end\n")
    assert decoded.reasons["invalid-utf8"] == 1


def test_a_line_of_cp949_among_utf8_is_read() -> None:
    decoded = decode("첫 줄\n".encode() * 5 + "둘째 줄\n".encode("cp949") + "셋째 줄\n".encode())
    assert decoded.text == "첫 줄\n" * 5 + "둘째 줄\n셋째 줄\n"
    assert decoded.reasons == Counter({"cp949": 1})


def test_western_letters_are_not_taken_for_korean() -> None:
    text = decode("“Hello” it’s Müller’s naïve café, and a line of many more words.\n".encode("cp1252")).text
    assert "Hello" in text
    assert not any("가" <= letter <= "힣" for letter in text)


def test_bytes_that_are_nothing_become_the_replacement_character_and_the_rest_stays() -> None:
    decoded = decode(b"before \xff\xfe\x80 middle \xc3 after " + "한글".encode())
    assert decoded.text == "before \ufffd\ufffd\ufffd middle \ufffd after 한글"
    assert decoded.reasons == Counter({"invalid-utf8": 4})


def test_nul_bytes_are_dropped() -> None:
    decoded = decode(b"be\0fore\n" + b"x" * 200 + b"\nafter\n")
    assert decoded.text == "before\n" + "x" * 200 + "\nafter\n"
    assert decoded.reasons == Counter({"nul": 1})


def test_a_file_that_a_crash_filled_with_nuls_keeps_its_text() -> None:
    assert decode(ENGLISH.encode() + b"\0" * 5_000).text == ENGLISH


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_korean_file_that_was_read_as_cp1252_is_restored(layers: int) -> None:
    text = KOREAN
    for _ in range(layers):
        text = mojibake(text)
    decoded = decode(text.encode())
    assert decoded.text == KOREAN
    assert decoded.reasons == Counter({"mojibake": 1})


def test_a_korean_file_that_was_read_as_latin1_is_restored() -> None:
    assert decode(mojibake(KOREAN, "latin-1").encode()).text == KOREAN


def test_a_mojibake_dart_source_is_restored_to_the_letter() -> None:
    source = "// 한국어 주석\nfinal  name = '이름';\t\n"
    assert decode(mojibake(source).encode()).text == source


@pytest.mark.parametrize(
    "text",
    ["Así…» dijo él. ¿Qué?", "forêt, naïve, Müller, São Paulo", "한글과 “따옴표” — ê€ ì", "ê°€는 깨진 글자입니다", "Ã"],
)
def test_text_that_is_right_stays(text: str) -> None:
    assert restore_mojibake(text) == text


@pytest.mark.parametrize(
    "head",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"%PDF-1.7\n",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"RIFF\x10\0\0\0WEBP",
    ],
)
def test_a_picture_or_an_archive_is_no_text(head: bytes) -> None:
    with pytest.raises(NotText):
        decode(head + b"plain words after it " * 20)


def test_bytes_without_a_known_beginning_are_no_text_either() -> None:
    with pytest.raises(NotText):
        decode(random.Random(0).randbytes(4_096))


@given(st.binary(max_size=400))
def test_any_bytes_are_text_or_no_text(data: bytes) -> None:
    try:
        decoded = decode(data)
    except NotText:
        return
    decoded.text.encode()
    assert "\0" not in decoded.text
    assert not decoded.text.startswith("\ufeff")


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff", exclude_categories=["Cc", "Cs"]), max_size=200)
)
def test_valid_utf8_is_read_as_it_is_unless_it_is_mojibake(text: str) -> None:
    try:
        decoded = decode(text.encode())
    except NotText:
        assert "\ufffd" in text
        return
    assert decoded.text == text or decoded.reasons["mojibake"]
