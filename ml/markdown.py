"""The parts of a Markdown document: front matter, code blocks, inline code, and what site generators add.

Code blocks are fenced ones, in lists and quotes too, and indented ones after a blank line outside a list. A fence that
is never closed, or meets the next block's opening first, ends at its first blank line: a closing fence is written there
and the text after it is prose.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ml.stash import Stash

MAX_FRONT_MATTER_LINES = 400

_FENCE = re.compile(
    r"(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+|>[ \t]?)*)(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)\Z"
)
_CLOSING = re.compile(r"[ \t>]*(?P<mark>`{3,}|~{3,})[ \t]*\Z")
_LIST_ITEM = re.compile(r"[ \t]{0,12}(?:[-*+]|\d{1,9}[.)])(?:[ \t]|\Z)")
_FIELD = re.compile(r"[\"']?[\w][\w .-]{0,60}[\"']?[ \t]*[:=](?:[ \t]|\Z)")
_UNCLOSED_FIELD = re.compile(r"[a-z][\w-]{0,40}:(?:[ \t]|\Z)")
_CONTINUED = re.compile(r"[ \t]|[-#\]}]|\Z")
_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(?P<title>\S[^\n]*)$", re.MULTILINE)
_BACKTICKS = re.compile(r"`+|\n[ \t]*\n")
_SITE_SYNTAX = (
    re.compile(r"\{%[^{}\n]{0,500}%\}"),
    re.compile(r"[ \t]*\{[:#][^{}\n]{0,200}\}(?=[ \t]*$)", re.MULTILINE),
    re.compile(r"(?<=\S)[ \t]*\[\[[\w-]{1,200}\]\](?=[ \t]*$)", re.MULTILINE),
    re.compile(r"^[ \t]*:{3,}[ \t]*(?:\{[^{}\n]{0,100}\}|[A-Za-z][\w-]{0,40})?(?:(?=[ \t]*$)|[ \t]+)", re.MULTILINE),
)
_MODULE_LINES = re.compile(r"^(?:import|export)[ \t][^\n]{0,500}['\"][^'\"\n]{1,300}['\"];?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of a document's lines, each with its line end."""

    text: str
    is_code: bool


def take_front_matter(text: str, reasons: Counter[str]) -> str:
    """The text without its front matter; its title as the first heading where the text has none."""
    first, _, rest = text.lstrip("\n").partition("\n")
    mark = first.rstrip()
    if mark not in ("---", "+++") or not rest:
        return text
    lines = rest.split("\n", MAX_FRONT_MATTER_LINES)
    if not _FIELD.match(next((line for line in lines if line.strip()), "")):
        return text
    end = next(
        (number for number, line in enumerate(lines[:MAX_FRONT_MATTER_LINES]) if line.rstrip() in (mark, "...")), None
    )
    if end is not None and all(_FIELD.match(line) or _CONTINUED.match(line) for line in lines[:end]):
        reasons["front-matter"] += 1
        return _with_title("\n".join(lines[:end]), "\n".join(lines[end + 1 :]))
    end = next((number for number, line in enumerate(lines) if not _UNCLOSED_FIELD.match(line)), len(lines))
    if end == 0:
        return text
    reasons["front-matter-unclosed"] += 1
    return _with_title("\n".join(lines[:end]), "\n".join(lines[end:]))


def _with_title(fields: str, body: str) -> str:
    body = body.lstrip("\n")
    title = _TITLE.search(fields)
    if title is None or body.startswith("# "):
        return body
    name = title["title"].strip().strip("\"'").strip()
    return f"# {name}\n\n{body}" if name else body


def split_parts(
    text: str, reasons: Counter[str], *, code_indent: int | None, has_fences: bool = True
) -> Iterator[Part]:
    """Prose and code in turn; together they are the text, and a closing fence for each that was missing."""
    lines = _split_lines(text)
    prose: list[str] = []
    place = 0
    in_list = False
    while place < len(lines):
        line = lines[place]
        stop, missing = place, ""
        if has_fences and (opening := _opens_fence(line)):
            stop, missing = _end_of_fence(lines, place, opening)
        elif (
            code_indent
            and not in_list
            and _is_indented(line, code_indent)
            and (place == 0 or not lines[place - 1].strip())
        ):
            stop = _end_of_indented(lines, place, code_indent)
        if stop == place:
            in_list = _stays_in_list(line, in_list)
            prose.append(line)
            place += 1
            continue
        if prose:
            yield Part(text="".join(prose), is_code=False)
            prose = []
        reasons["unclosed-fence"] += bool(missing)
        yield Part(text="".join(lines[place:stop]) + missing, is_code=True)
        place = stop
    if prose:
        yield Part(text="".join(prose), is_code=False)


def _split_lines(text: str) -> list[str]:
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _opens_fence(line: str) -> re.Match[str] | None:
    if "```" not in line and "~~~" not in line:
        return None
    match = _FENCE.match(line.rstrip("\n"))
    return match if match and not (match["mark"][0] == "`" and "`" in match["info"]) else None


def _end_of_fence(lines: list[str], start: int, opening: re.Match[str]) -> tuple[int, str]:
    """Line after the block, and the closing fence that it lacks."""
    mark = opening["mark"]
    first_blank = None
    for number in range(start + 1, len(lines)):
        line = lines[number].rstrip("\n")
        if first_blank is None and not line.strip(" \t>"):
            first_blank = number
        if mark not in line:
            continue
        closing = _CLOSING.match(line)
        if closing and closing["mark"][0] == mark[0]:
            return number + 1, ""
        other = _opens_fence(line)
        if other and other["mark"] == mark and other["info"].strip():
            first_blank = number if first_blank is None else first_blank
            break
    stop = first_blank if first_blank is not None else len(lines)
    indent = re.sub(r"[^ \t>]", " ", opening["indent"])
    return stop, ("" if lines[stop - 1].endswith("\n") else "\n") + f"{indent}{mark}\n"


def _is_indented(line: str, indent: int) -> bool:
    return line.startswith((" " * indent, "\t")) and bool(line.strip())


def _end_of_indented(lines: list[str], start: int, indent: int) -> int:
    stop = start
    for number in range(start, len(lines)):
        if _is_indented(lines[number], indent):
            stop = number + 1
        elif lines[number].strip():
            break
    return stop


def _stays_in_list(line: str, in_list: bool) -> bool:
    if _LIST_ITEM.match(line):
        return True
    return in_list and (not line.strip() or line.startswith((" ", "\t")))


def stash_inline_code(text: str, stash: Stash) -> str:
    """The text with marks in the place of `code`.

    A run of backticks ends at the next that is as long, in its paragraph.
    """
    if "`" not in text:
        return text
    pieces: list[str] = []
    place = 0
    for start, stop in _inline_code(text):
        pieces += [text[place:start], stash.put(text[start:stop])]
        place = stop
    return "".join([*pieces, text[place:]])


def _inline_code(text: str) -> Iterator[tuple[int, int]]:
    runs: list[re.Match[str]] = []
    for match in _BACKTICKS.finditer(text + "\n\n"):
        if match[0].startswith("`"):
            runs.append(match)
        else:
            yield from _pair(runs)
            runs = []


def _pair(runs: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    later: dict[int, list[int]] = {}
    for number in range(len(runs) - 1, -1, -1):
        later.setdefault(len(runs[number][0]), []).append(number)
    number = 0
    while number < len(runs):
        same = later[len(runs[number][0])]
        while same and same[-1] <= number:
            same.pop()
        if same:
            yield runs[number].start(), runs[same[-1]].end()
            number = same[-1]
        number += 1


def take_site_syntax(text: str, reasons: Counter[str], *, has_modules: bool) -> str:
    """The text without template tags, heading anchors and container marks; MDX has its imports at the line start."""
    patterns = (*_SITE_SYNTAX, _MODULE_LINES) if has_modules else _SITE_SYNTAX
    for pattern in patterns:
        text, count = pattern.subn("", text)
        reasons["site-syntax"] += count
    return text
