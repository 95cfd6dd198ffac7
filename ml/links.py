"""Markdown links become their text, pictures their description.

| written | becomes |
|---|---|
| `[text](target "title")`, `[text][label]`, `[text][]`, `[label]` with a definition in the document | `text` |
| `![description](target)` | the description, where it is one and no file name |
| `[label]: target` on a line of its own | nothing |
| `<https://...>` | `https://...` |
| `[text]` without a target, such as `[ANSWER]` or `- [x]` | stays |

Brackets are matched with a stack in one pass, so that links in links need no second one.
"""

import html
import re
from collections import Counter
from dataclasses import dataclass, field

from ml.stash import Stash

TAGS = frozenset({"question", "/question", "answer", "/answer"})

_DEFINITION = re.compile(
    r"^[ \t>]{0,12}\[(?P<label>[^\[\]\n^][^\[\]\n]{0,300})\]:[ \t]*\n?[ \t]*(?P<target><[^<>\n]*>|\S++)"
    r"[ \t]*(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\))?[ \t]*(?:\n|\Z)",
    re.MULTILINE,
)
_LOOKS_LIKE_A_TARGET = re.compile(r"[/#.:<{]")
_BRACKET = re.compile(r"\\.|!\[|\[|\]")
_TARGET = re.compile(
    r"\([ \t]*\n?[ \t]*(?:<[^<>\n]*>|(?:[^()\s<>]|\([^()\s]*\))*+)"
    r"(?:\s+(?:\"[^\"]{0,500}\"|'[^']{0,500}'|\([^()]{0,500}\)))?\s*\)"
)
_LABEL = re.compile(r"[ \n]?\[([^\[\]\n]{0,300})\]")
_AUTOLINK = re.compile(r"<((?:https?|ftp|mailto):[^<>\s]{1,2000})>")
_MAX_OPEN = 64
_MAX_LABEL = 1_000


def find_labels(text: str) -> set[str]:
    """Labels that the text defines a target for."""
    return {
        _normal(match["label"])
        for match in _DEFINITION.finditer(text)
        if _LOOKS_LIKE_A_TARGET.search(match["target"]) and _normal(match["label"]) not in TAGS
    }


def simplify_links(text: str, *, labels: set[str], stash: Stash, reasons: Counter[str]) -> str:
    """The text without targets; `labels` are those that the whole document defines, code in them in the stash."""
    if "[" in text:
        text = _Resolver(labels=labels, stash=stash, reasons=reasons).run(text)
    if "<" in text:
        text, count = _AUTOLINK.subn(r"\1", text)
        reasons["links"] += count
    return text


@dataclass(kw_only=True, slots=True)
class _Resolver:
    """Where the pass over a text stands."""

    labels: set[str]
    stash: Stash
    reasons: Counter[str]
    pieces: list[str] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    """Indices in `pieces` of brackets that wait for their end."""

    def run(self, text: str) -> str:
        text = _DEFINITION.sub(self._define, text)
        place = 0
        while match := _BRACKET.search(text, place):
            self.pieces.append(text[place : match.start()])
            place = match.end()
            if match[0] == "]":
                place = self._close(text, place)
                continue
            if not match[0].startswith("\\"):
                self.opened.append(len(self.pieces))
                del self.opened[:-_MAX_OPEN]
            self.pieces.append(match[0])
        return "".join([*self.pieces, text[place:]])

    def _define(self, match: re.Match[str]) -> str:
        if not self._is_defined(match["label"]):
            return match[0]
        self.reasons["links"] += 1
        return ""

    def _close(self, text: str, place: int) -> int:
        """Write what the brackets stand for; where the text goes on."""
        if not self.opened:
            self.pieces.append("]")
            return place
        start = self.opened.pop()
        inner = "".join(self.pieces[start + 1 :])
        stop = self._end_of_link(text, place, inner)
        if stop is None or "\n\n" in inner:
            self.pieces[start + 1 :] = [inner, "]"]
            return place
        is_picture = self.pieces[start] == "!["
        del self.pieces[start:]
        self.reasons["links"] += 1
        # What is taken out never makes markup of its neighbours.
        if self.pieces and self.pieces[-1].endswith(("]", "[", "!", "<", "`")):
            self.pieces.append(" ")
        self.pieces.append(_description(inner) if is_picture else inner)
        return stop

    def _end_of_link(self, text: str, place: int, inner: str) -> int | None:
        if target := _TARGET.match(text, place):
            return target.end()
        if label := _LABEL.match(text, place):
            return label.end() if self._is_defined(label[1] or inner) else None
        return place if text[place : place + 1] != ":" and self._is_defined(inner) else None

    def _is_defined(self, label: str) -> bool:
        return bool(self.labels) and len(label) <= _MAX_LABEL and _normal(self.stash.restore(label)) in self.labels


def _description(text: str) -> str:
    """What a picture shows; nothing where its maker wrote a file name or one word."""
    return text if " " in text.strip() else ""


def _normal(label: str) -> str:
    return " ".join(html.unescape(label).split()).lower()
