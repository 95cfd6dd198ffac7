"""Personal data in prose becomes a placeholder.

| what | becomes | what stays |
|---|---|---|
| e-mail address | [EMAIL] | addresses of example domains, `git@host`, file names such as `icon@2x.png` |
| user's name in /home/NAME/, /Users/NAME, C:\\Users\\NAME, and in a prompt NAME@HOST:~$ | [USER], [HOST] | `Shared` |
| telephone number, Korean or international | [PHONE] | 010-1234-5678, 555 numbers, what is not grouped as one |
| Korean resident registration number | [ID] | |
| public IP address | [IP] | private, loopback and documentation ranges |
| API key, token or private key in a known form | [SECRET] | |

Every pattern has bounded repetitions, so that the time grows with the text's length alone.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

# (?a): a Korean particle right after an address or a number does not belong to it.
_EMAIL = re.compile(
    r"(?a)(?<![\w.+%-])(?!git@)[A-Za-z0-9][\w.+%-]{0,63}@(?!example\.|test\.)(?:[A-Za-z0-9-]{1,63}\.){1,6}"
    r"(?!(?:png|jpe?g|gif|svg|webp|dart|js|ts|css|md)\b)[A-Za-z]{2,24}(?![\w-])"
)
_HOME = re.compile(
    r"(?P<before>(?<![\w.~/-])/Users/|(?<=file://)/(?:Users|home)/|\b[A-Za-z]:\\{1,2}Users\\{1,2})"
    r"(?!Shared\b)[^\s/\\:'\"`<>()\[\]$%{}]{1,64}"
    r"|(?P<home>(?<![\w.~/-])/home/)[^\s/\\:'\"`<>()\[\]$%{}]{1,64}(?=/)"
)
_PROMPT = re.compile(
    r"^(?P<open>\(\w{1,32}\) ?)?[a-z_][\w.-]{0,31}@[\w.-]{1,63}(?=:[~/][^\n$#]{0,200}[$#](?: |$))", re.MULTILINE
)
_PHONE = re.compile(
    r"(?a)(?<![\w.+/-])(?:"
    r"\+(?=(?:[ .()-]{0,2}\d){9,15})\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]\d{2,4}){1,4}"
    r"|01[016789]([ .-]?)\d{3,4}\1\d{4}"
    r"|0\d{1,2}-\d{3,4}-\d{4}"
    r"|(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}"
    r")(?![\w-]|\.\d)"
)
_IDENTITY = re.compile(r"(?a)(?<![\w-])\d{2}[01]\d[0-3]\d-[1-4]\d{6}(?![\w-])")
_IP = re.compile(
    r"(?a)(?<![\w.:/-])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{1,4}:{1,2}){3,7}[0-9A-Fa-f]{1,4})(?![\w:-]|\.\w)"
)
_SECRET = re.compile(
    r"(?a)-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s]{0,8192}-----END [A-Z ]{0,20}PRIVATE KEY-----"
    r"|(?<![\w-])(?:sk-[\w-]{20,200}|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_\w{20,255}|glpat-[\w-]{20,64}"
    r"|hf_[A-Za-z0-9]{30,64}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,255}"
    r"|eyJ[\w-]{10,1024}\.eyJ[\w-]{10,4096}\.[\w-]{10,1024})(?![\w-])"
)
_ASSIGNED = re.compile(
    r"(?ai)(?P<name>\b(?:api[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd)\b"
    r"['\"]?\s{0,4}[=:]\s{0,4}['\"]?)"
    r"(?=[^\s'\"]{0,64}\d)[A-Za-z0-9+/_\-!@#$%^&*.]{12,200}"
)


# What has none of a rule's hints cannot match it, and need not be searched.
_RULES: tuple[tuple[str, tuple[str, ...], re.Pattern[str], str], ...] = (
    ("secret", ("-", "_", "AKIA", "ASIA", "AIza", "eyJ"), _SECRET, "[SECRET]"),
    ("secret", ("=", ":"), _ASSIGNED, r"\g<name>[SECRET]"),
    ("home-path", ("@",), _PROMPT, r"\g<open>[USER]@[HOST]"),
    ("email", ("@",), _EMAIL, "[EMAIL]"),
    ("home-path", ("/Users/", "/home/", "\\Users"), _HOME, r"\g<before>\g<home>[USER]"),
    ("identity-number", ("-",), _IDENTITY, "[ID]"),
    ("phone", ("0", "+", "-"), _PHONE, "[PHONE]"),
    ("ip-address", (".", ":"), _IP, "[IP]"),
)


def hide_personal_data(text: str, reasons: Counter[str]) -> str:
    """The text with placeholders; counts what was found in `reasons`."""
    for reason, hints, pattern, template in _RULES:
        if any(hint in text for hint in hints):
            keeps = {"ip-address": _is_no_public_address, "phone": _is_an_example}.get(reason)
            text = _replace(text, pattern, template, keeps, reasons, reason)
    return text


def _replace(
    text: str,
    pattern: re.Pattern[str],
    template: str,
    keeps: Callable[[str], bool] | None,
    reasons: Counter[str],
    reason: str,
) -> str:
    def change(match: re.Match[str]) -> str:
        if keeps and keeps(match[0]):
            return match[0]
        reasons[reason] += 1
        return match.expand(template)

    return pattern.sub(change, text)


def _is_no_public_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_global
    except ValueError:
        return True


def _is_an_example(number: str) -> bool:
    """Whether nobody has the number: 010-1234-5678, and 555 in films."""
    digits = "".join(filter(str.isdigit, number))
    return digits.endswith(("12345678", "00000000")) or digits[-7:-4] == "555"
