"""Which language a document is in."""

import re
from pathlib import PurePosixPath

LANGUAGES = ("ko", "en", "code", "other")
CODE_SUFFIXES = frozenset({".dart", ".py", ".js", ".ts", ".kt", ".swift", ".java", ".c", ".h", ".cpp", ".rs", ".go"})
CODE_SHARE = 0.5
HANGUL_SHARE = 0.1
LATIN_SHARE = 0.5
JUDGED_CHARACTERS = 2**14

_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_LETTERS = re.compile(r"[^\W\d_]+")
_HANGUL = re.compile("[ㄱ-ㆎ가-힣]+")


def language_of(text: str, *, path: str = "") -> str:
    """One of LANGUAGES, by the document's first JUDGED_CHARACTERS.

    "code" is a source file by its name, or a text of which more than CODE_SHARE stands in fenced code blocks. Else the
    letters outside those blocks decide: "ko" from HANGUL_SHARE of Hangul on, since Korean technical prose is full of
    Latin names and one syllable is as much as two or three Latin letters; "en" from LATIN_SHARE of Latin on; else
    "other".
    """
    if PurePosixPath(path.lower().removesuffix(".txt")).suffix in CODE_SUFFIXES:
        return "code"
    judged = text[:JUDGED_CHARACTERS]
    prose = _FENCED.sub("", judged)
    if len(judged) - len(prose) > CODE_SHARE * len(judged):
        return "code"
    letters = "".join(_LETTERS.findall(prose))
    if not letters:
        return "other"
    if sum(map(len, _HANGUL.findall(letters))) >= HANGUL_SHARE * len(letters):
        return "ko"
    return "en" if len(letters.encode("ascii", "ignore")) >= LATIN_SHARE * len(letters) else "other"
