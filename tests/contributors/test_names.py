import unicodedata

import pytest

from contributors import names


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Mina", "Mina"),
        ("  민아의   컴퓨터 ", "민아의 컴퓨터"),
        (unicodedata.normalize("NFD", "민아é"), "민아é"),
        ("👨‍👩‍👧 Kim", "👨‍👩‍👧 Kim"),
        ("👩🏽‍💻", "👩🏽‍💻"),
        ("x" * 40, "x" * 40),
    ],
)
def test_a_name_is_stripped_and_composed(written, kept):
    assert names.clean(written, max_chars=40) == kept


@pytest.mark.parametrize(
    "written",
    [
        "",
        " \t\n",
        "x" * 41,
        "a\x00b",
        "a\x1b[31mb",
        "a\x7fb",
        "admin\u202etxt",
        "admin\u2066x",
        "a\u200bb",
        "a\u200db",
        "\u200d",
        "\ufeffadmin",
        "a\u00adb",
        "a\ud800b",
        "\ue000",
        "\u0301",
        "a\U000e0041b",
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_a_name_that_cannot_be_seen_as_it_is_is_refused(written):
    with pytest.raises(names.NameInvalid):
        names.clean(written, max_chars=40)
