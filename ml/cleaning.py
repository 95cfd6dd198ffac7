"""Text as found to text to learn from; what each rule does stands in ml.reasons.

| kind | rules |
|---|---|
| code (.dart, .py) | line ends, the end-of-text token; else to the letter |
| page (.html) | markup becomes Markdown, then the rules of Markdown |
| markdown (.md, .mdx, .markdown) | front matter; then in prose: characters, markup, site syntax, links, personal data |
| restructured (.rst) | in prose: characters, links, personal data; indented blocks to the letter |
| plain (.txt, .log) | characters, personal data, outside fenced code blocks |

Code blocks survive to the letter, and personal data in them too: whoever writes code into a document shows it on
purpose. A terminal's log that no fence marks as code is prose, and its addresses, paths and keys are hidden.
Every rule reads a text from left to right a fixed number of times, so time grows with the length alone.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from ml.links import find_labels, simplify_links
from ml.markdown import Part, split_parts, stash_inline_code, take_front_matter, take_site_syntax
from ml.markup import strip_markup
from ml.personal import hide_personal_data
from ml.prose import take_long_runs, tidy_characters, tidy_lines
from ml.stash import Stash

KINDS = {
    ".md": "markdown",
    ".mdx": "markdown",
    ".markdown": "markdown",
    ".dart": "code",
    ".py": "code",
    ".txt": "plain",
    ".log": "plain",
    ".rst": "restructured",
    ".html": "page",
    ".htm": "page",
}
"""What is read, by its suffix in lower case."""
SEPARATOR = "<|endoftext|>"
"""Stands between documents, and is ml.tokenizer's END_OF_TEXT; a text may not hold it."""
HARMLESS_SEPARATOR = "<| endoftext |>"

_RST_LINK = re.compile(r"`([^`<>\n]{1,300}(?:\n[^`<>\n]{1,300})?)[ \n]<[^<>`\s]{1,1000}>`__?")
_PREFORMATTED = re.compile(r"(<pre\b(?:(?!<pre\b)[^\0])*?</pre>)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """A document to learn from."""

    parts: Sequence[Part]
    """Prose and code in turn; together the text."""
    reasons: Counter[str]
    """How often each rule of ml.reasons.CHANGED was needed."""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


def kind_of(path: PurePath) -> str | None:
    """One of KINDS' values, or None for a file that is not read."""
    return KINDS.get(path.suffix.lower())


def clean(text: str, *, kind: str, has_modules: bool = False) -> Cleaned:
    """The text by the rules of its kind; `has_modules` where it is MDX, whose import lines are no text."""
    reasons: Counter[str] = Counter()
    unified = _unify(text, reasons)
    if kind == "code":
        parts = [Part(text=unified, is_code=True)]
    elif kind == "plain":
        parts = _clean_parts(split_parts(unified, reasons, code_indent=None), _clean_plain, reasons)
    elif kind == "restructured":
        parts = _clean_parts(
            split_parts(unified, reasons, code_indent=2, has_fences=False), _clean_restructured, reasons
        )
    else:
        body = _page_to_markdown(unified, reasons) if kind == "page" else _without_front_matter(unified, reasons)
        rules = _MarkdownRules(labels=find_labels(body), has_modules=has_modules)
        parts = _clean_parts(split_parts(body, reasons, code_indent=4), rules.clean, reasons)
    reasons = +reasons
    if not reasons and "".join(part.text for part in parts) != text:
        reasons["white-space"] = 1
    return Cleaned(parts=parts, reasons=reasons)


def _unify(text: str, reasons: Counter[str]) -> str:
    if "\r" in text:
        reasons["line-ends"] += 1
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    reasons["special-token"] += text.count(SEPARATOR)
    return text.replace(SEPARATOR, HARMLESS_SEPARATOR)


def _without_front_matter(text: str, reasons: Counter[str]) -> str:
    while (rest := take_front_matter(text, reasons)) != text:
        text = rest
    return text


def _page_to_markdown(text: str, reasons: Counter[str]) -> str:
    stash = Stash()
    text = strip_markup(tidy_characters(text, reasons), stash=stash, reasons=reasons, page=True)
    return stash.restore(text).strip() + "\n"


def _clean_parts(parts: Iterable[Part], rule: Callable[[str, Counter[str]], str], reasons: Counter[str]) -> list[Part]:
    cleaned = [part if part.is_code else replace(part, text=rule(part.text, reasons)) for part in parts]
    if cleaned and not cleaned[0].is_code:
        cleaned[0] = replace(cleaned[0], text=cleaned[0].text.lstrip("\n"))
    if cleaned and not cleaned[-1].is_code:
        last = cleaned[-1].text
        cleaned[-1] = replace(cleaned[-1], text=last.rstrip() + ("\n" if last.endswith("\n") and last.strip() else ""))
    return cleaned


def _clean_plain(text: str, reasons: Counter[str]) -> str:
    return tidy_lines(hide_personal_data(take_long_runs(tidy_characters(text, reasons), reasons), reasons))


def _clean_restructured(text: str, reasons: Counter[str]) -> str:
    text, count = _RST_LINK.subn(r"\1", text)
    reasons["links"] += count
    return _clean_plain(text, reasons)


@dataclass(frozen=True, kw_only=True, slots=True)
class _MarkdownRules:
    """What the rules of one Markdown document have to know of it as a whole."""

    labels: set[str]
    has_modules: bool

    def clean(self, text: str, reasons: Counter[str]) -> str:
        stash = Stash()
        text = _hide_in_prose(tidy_characters(text, reasons), reasons)
        text = stash_inline_code(text, stash)
        text = strip_markup(text, stash=stash, reasons=reasons)
        text = take_site_syntax(text, reasons, has_modules=self.has_modules)
        text = simplify_links(text, labels=self.labels, stash=stash, reasons=reasons)
        return stash.restore(tidy_lines(take_long_runs(text, reasons)))


def _hide_in_prose(text: str, reasons: Counter[str]) -> str:
    """Personal data in a preformatted block stays, as in any code block."""
    pieces = _PREFORMATTED.split(text) if "<pre" in text else [text]
    return "".join(piece if piece.startswith("<pre") else hide_personal_data(piece, reasons) for piece in pieces)
