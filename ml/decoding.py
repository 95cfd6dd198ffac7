"""Bytes to text, whatever program wrote them.

In this order; the first that fits decides:

| the bytes | become |
|---|---|
| begin as a picture, an archive or another binary format does | NotText |
| begin with a byte-order mark | UTF-8, UTF-16 or UTF-32, without the mark |
| have NULs where UTF-16 has them, and make plausible text as UTF-16 | UTF-16 |
| are UTF-8 | UTF-8 |
| make mostly Hangul as CP949 | CP949 |
| are anything else | UTF-8 line by line, CP949 for a line of Hangul; a byte that is neither becomes U+FFFD |

NULs that are left are dropped. A text that is wholly mojibake (UTF-8 that was read as cp1252 or Latin-1 and saved
again) is turned back, twice or thrice where that was done twice or thrice; since it all has to be valid UTF-8
afterwards, with Hangul in it, no other text can be hit. Text of which more than a tenth (and MAX_NOISE) is control
characters or U+FFFD is NotText.
"""

import codecs
import re
from collections import Counter
from dataclasses import dataclass, field

import ftfy.bad_codecs  # noqa: F401 - registers sloppy-windows-1252, which has all 256 bytes

REPLACEMENT = "\ufffd"
MAX_NOISE = 8
MAX_NOISE_SHARE = 0.1
MIN_NUL_SHARE = 0.02
MIN_PLAUSIBLE_SHARE = 0.9
MIN_HANGUL_BYTES_SHARE = 0.6
MAX_MOJIBAKE_LAYERS = 3

_MAGIC = re.compile(
    rb"\x89PNG\r|\xff\xd8\xff|GIF8[79]a|%PDF-|PK\x03\x04|\x1f\x8b\x08|RIFF....(?:WEBP|WAVE|AVI )|\x7fELF|OggS|BZh\d1AY"
    rb"|II\*\0|MM\0\*|\0\0[\x01\x02]\0[\x01-\x20]\0|wOF[F2]|7z\xbc\xaf|\xfd7zXZ|\xca\xfe\xba\xbe|\0asm"
    rb"|SQLite format 3\0|....ftyp|MZ\x90\0|\0\x01\0\0\0|BM.{4}\0\0\0\0",
    re.DOTALL,
)
# UTF-32's little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "bom"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
)
# ASCII, Latin-1, general punctuation, Hangul and its jamo, CJK punctuation: what a UTF-16 text is made of here.
_PLAUSIBLE = re.compile("[\t\n\r -~\u00a0-\u00ff\u1100-\u11ff\u2010-\u206f\u3000-\u303f\u3130-\u318f\uac00-\ud7a3]+")
_ASCII_BYTES = bytes(range(128))
_HANGUL_BYTES = re.compile(rb"(?:[\xb0-\xc8][\xa1-\xfe])+")
_HANGUL = re.compile("[가-힣]")
_NOISE = re.compile("[\x01-\x07\x0e-\x1a\x1c-\x1f\ufffd]+")
# Hangul is ê, ë, ì or í and two continuation bytes 80 to BF, as cp1252 and Latin-1 show them; Ã begins it when the
# same went wrong twice.
_MOJIBAKE = re.compile("Ã|[ê-í][\x80-\xbfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]{2}")


class NotText(Exception):
    """Bytes that are no text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A text, and how often each rule of ml.reasons.CHANGED was needed for it."""

    text: str
    reasons: Counter[str] = field(default_factory=Counter)


def decode(data: bytes) -> Decoded:
    """The text that the bytes hold, its line ends untouched.

    Raises: NotText.
    """
    if _MAGIC.match(data):
        raise NotText
    reasons: Counter[str] = Counter()
    text = _to_text(data, reasons)
    if "\0" in text:
        reasons["nul"] = text.count("\0")
        text = text.replace("\0", "")
    if text.startswith("\ufeff"):
        reasons["bom"] = 1
        text = text.lstrip("\ufeff")
    restored = restore_mojibake(text)
    if restored != text:
        reasons["mojibake"] = 1
        text = restored.lstrip("\ufeff")
    if len(text) - len(_NOISE.sub("", text)) > max(MAX_NOISE, MAX_NOISE_SHARE * len(text)):
        raise NotText
    return Decoded(text=text, reasons=reasons)


def restore_mojibake(text: str) -> str:
    """The text as it was before UTF-8 was read as cp1252 or Latin-1; unchanged where it was not, as a whole."""
    restored = text
    for _ in range(MAX_MOJIBAKE_LAYERS):
        restored = _undo_one_layer(restored)
        if _HANGUL.search(restored):
            return restored
    return text


def _undo_one_layer(text: str) -> str:
    if not _MOJIBAKE.search(text):
        return text
    for encoding in ("sloppy-windows-1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


def _to_text(data: bytes, reasons: Counter[str]) -> str:
    for mark, encoding, reason in _MARKS:
        if data.startswith(mark):
            reasons[reason] = 1
            return _replacing(data[len(mark) :], encoding, reasons)
    unmarked = _utf16_without_mark(data)
    if unmarked:
        reasons["utf-16"] = 1
        return _replacing(data, unmarked, reasons)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _korean_or_mixed(data, reasons)


def _replacing(data: bytes, encoding: str, reasons: Counter[str]) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, errors="replace")
        reasons["invalid-utf8"] = text.count(REPLACEMENT)
        return text


def _utf16_without_mark(data: bytes) -> str | None:
    if data.count(0) < max(1, MIN_NUL_SHARE * len(data)):
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        text = data[: len(data) // 2 * 2].decode(encoding, errors="replace")
        if len(_PLAUSIBLE.sub("", text)) <= (1 - MIN_PLAUSIBLE_SHARE) * len(text):
            return encoding
    return None


def _korean_or_mixed(data: bytes, reasons: Counter[str]) -> str:
    if _is_mostly_hangul(data):
        korean = data.decode("cp949", errors="replace")
        num_lost = korean.count(REPLACEMENT)
        if 10 * num_lost <= data.decode("utf-8", errors="replace").count(REPLACEMENT):
            reasons["cp949"] = 1
            if num_lost:
                reasons["invalid-utf8"] = num_lost
            return korean
    return "\n".join(_decode_line(line, reasons) for line in data.split(b"\n"))


def _decode_line(line: bytes, reasons: Counter[str]) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if _is_mostly_hangul(line):
        try:
            text = line.decode("cp949")
        except UnicodeDecodeError:
            pass
        else:
            reasons["cp949"] += 1
            return text
    text = line.decode("utf-8", errors="replace")
    reasons["invalid-utf8"] += text.count(REPLACEMENT)
    return text


def _is_mostly_hangul(data: bytes) -> bool:
    """Whether the bytes above ASCII are pairs that stand for KS X 1001's syllables, in CP949."""
    num_high = len(data.translate(None, _ASCII_BYTES))
    num_in_pairs = len(data) - len(_HANGUL_BYTES.sub(b"", data))
    return num_in_pairs > 0 and num_in_pairs >= MIN_HANGUL_BYTES_SHARE * num_high
