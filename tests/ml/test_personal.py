from collections import Counter

import pytest

from ml.personal import hide_personal_data

FAKE_KEY = "sk-" + "a1B2" * 8


@pytest.mark.parametrize(
    ("text", "hidden", "reason"),
    [
        ("mail kim.eunha+dart@mail.co.kr now", "mail [EMAIL] now", "email"),
        ("문의: hong@naver.com입니다", "문의: [EMAIL]입니다", "email"),
        ("at /Users/daniel/app/lib", "at /Users/[USER]/app/lib", "home-path"),
        ("at /home/eunha/app", "at /home/[USER]/app", "home-path"),
        ("file:///home/eunha/app", "file:///home/[USER]/app", "home-path"),
        (r"C:\Users\Kim\app", r"C:\Users\[USER]\app", "home-path"),
        ("kim@macbook:~/app$ dart run", "[USER]@[HOST]:~/app$ dart run", "home-path"),
        ("전화 010-9876-5432로", "전화 [PHONE]로", "phone"),
        ("call +82 10-9876-5432.", "call [PHONE].", "phone"),
        ("02-987-6543", "[PHONE]", "phone"),
        ("900101-1234567", "[ID]", "identity-number"),
        ("from 93.184.216.34 port", "from [IP] port", "ip-address"),
        ("2606:4700:4700:0:0:0:0:1111 up", "[IP] up", "ip-address"),
        (f"key {FAKE_KEY}.", "key [SECRET].", "secret"),
        ("AKIA" + "ABCD" * 4, "[SECRET]", "secret"),
        ("api_key=abcdef0123456789", "api_key=[SECRET]", "secret"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "[SECRET]", "secret"),
    ],
)
def test_personal_data_becomes_a_placeholder(text: str, hidden: str, reason: str) -> None:
    reasons: Counter[str] = Counter()
    assert hide_personal_data(text, reasons) == hidden
    assert +reasons == Counter({reason: 1})
    assert hide_personal_data(hidden, Counter()) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com and a@test.dev",
        "git@github.com:flutter/flutter.git",
        "icons/icon@2x.png",
        "@override and name@1.2.3",
        "https://site.dev/home/page/two",
        "127.0.0.1, 192.168.0.1, 10.0.2.2 and 0.0.0.0",
        "version 3.19.5, 2024-11-20, 1_000_000, 12:34:56",
        "010-1234-5678 or (415) 555-2671",
        "Set api_key=YOUR_KEY_HERE first",
        "Stream<int> and 1-2-3",
    ],
)
def test_what_is_nobodys_stays(text: str) -> None:
    reasons: Counter[str] = Counter()
    assert hide_personal_data(text, reasons) == text
    assert not +reasons
