"""Prose without what is no language: control characters, escape codes, mojibake, encoded data."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

import ftfy

_ESCAPE = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b\n]{0,1024}(?:\x07|\x1b\\)|\x1b[ -/]{0,4}[0-~]|\x1b"
    r"|\x9b[0-?]{0,64}[ -/]{0,8}[@-~]"
)
_OVERSTRUCK = re.compile(r"[^\n\x08]\x08")
# A line must not turn into a fence that was none when code and prose were parted.
_SEPARATORS = re.compile("[\x0b\x0c\x85\u2028\u2029](?P<fence>[ \t]*(?:```|~~~))?")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Joiners stay: emoji and some scripts need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ue000\ue001\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_CONTINUATION = "\x80-\xbfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™"
# Hangul, a typographic sign, an emoji or anything of that twice over, read as cp1252; an editor may have turned the
# no-break space, which is byte A0, into a plain one.
_MOJIBAKE = re.compile(f"[ê-í][{_CONTINUATION} ][{_CONTINUATION}]|â€|ðŸ|Ã[{_CONTINUATION}]")
MAX_RUN = 1_000
# No language here writes so much without a space; Korean and Chinese are outside ASCII.
_LONG_RUN = re.compile(rf"(?<![!-~])[!-~]{{{MAX_RUN},}}+")
_TRAILING = re.compile(r"(?<![ \t])[ \t]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def tidy_characters(text: str, reasons: Counter[str]) -> str:
    """The text in NFC, with line ends, spaces and letters that can be seen, and nothing else."""
    if "\x1b" in text or "\x9b" in text:
        text = _counted(_ESCAPE, "", text, reasons, "escape-codes")
    if _MOJIBAKE.search(text):
        text = "\n".join(_restore_line(line, reasons) for line in text.split("\n"))
    if not text.isascii() or not text.isprintable():
        text = _counted(_SEPARATORS, _to_line_end, text, reasons, "separators")
        if "\x08" in text:
            text = _counted(_OVERSTRUCK, "", text, reasons, "control-characters")
        text = _SPACES.sub(" ", text)
        text = _counted(_INVISIBLE, "", text, reasons, "control-characters")
    if not unicodedata.is_normalized("NFC", text):
        reasons["nfc"] += 1
        text = unicodedata.normalize("NFC", text)
    return text


def take_long_runs(text: str, reasons: Counter[str]) -> str:
    """The text without stretches of MAX_RUN visible ASCII characters and more, which are data."""
    return _counted(_LONG_RUN, "", text, reasons, "long-runs")


def tidy_lines(text: str) -> str:
    """The text without spaces at line ends and with at most one blank line in a row."""
    return _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text))


def _restore_line(line: str, reasons: Counter[str]) -> str:
    if not _MOJIBAKE.search(line):
        return line
    restored = ftfy.fix_encoding(line)
    reasons["mojibake"] += restored != line
    return restored


def _to_line_end(match: re.Match[str]) -> str:
    return f" {match['fence']}" if match["fence"] else "\n"


def _counted(
    pattern: re.Pattern[str],
    replacement: str | Callable[[re.Match[str]], str],
    text: str,
    reasons: Counter[str],
    reason: str,
) -> str:
    text, count = pattern.subn(replacement, text)
    reasons[reason] += count
    return text
