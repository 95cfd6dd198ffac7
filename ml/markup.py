"""HTML and JSX in prose: tags, comments and scripts go, the text that they stand around stays.

One pass from left to right without recursion; nesting has no depth here. A tag ends before the next `<`, and a comment
or script that is never closed loses its opening mark alone, so the time grows with the text's length alone and no
unclosed construct takes the text after it away.

| markup | becomes |
|---|---|
| an HTML element's tag | nothing; a line end or a space where it parts blocks or cells |
| a component's tag, such as `<Tab label="x">`, on a line of its own or with attributes | its title, label or name |
| `List<String>`, `a < b`, an unknown name | stays |
| comments, `<script>`, `<style>`, `<?...?>`, `<!...>`, `{/*...*/}`, `{*...*}` | nothing, with what is in them |
| `<pre>` | a fenced code block, its text to the letter |
| `<sup>` after Hangul | its text in parentheses, as translators mark the original word |
| an entity | the character, unless that would be markup again |
"""

import html
import re
from collections import Counter

from ml.stash import Stash

_BLOCKS = frozenset(
    """
    address article aside blockquote body br center dd details dialog div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 head header hr html li main menu nav ol optgroup option p picture section
    select source summary table tbody tfoot thead title tr ul video
    """.split()  # noqa: SIM905
)
_INLINE = frozenset(
    """
    a abbr acronym area audio b base bdi bdo big button canvas caption cite code col colgroup data datalist del
    dfn em embed font i iframe img input ins kbd label legend link map mark meta meter nobr noscript object
    output param path pre progress q rp rt ruby s samp script search slot small span strike strong style sub sup
    svg td template textarea th time track tt u var wbr
    """.split()  # noqa: SIM905
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_ELEMENTS = _BLOCKS | _INLINE
_DROPPED_WITH_TEXT = frozenset({"script", "style", "template", "svg"})
_OPENING = re.compile(r"<[A-Za-z/!?]|\{/?\*")
_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>[A-Za-z][\w.:-]*+)"
    r"(?P<rest>(?:(?:[^<>\"'{}]++|\"[^\"<]*+\"|'[^'<]*+'|\{[^{}<]*+\})*+)|[^<>]*+)>"
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SUPERSCRIPT = re.compile(r"(?<=[가-힣)])<sup>([^<>\n()]{1,80})</sup>")
_ENDS = {"<!--": "-->", "{/*": "*/}", "{*": "*}", "<?": "?>", "<!": ">"}
_SHOWN = re.compile(r"\b(?:title|label|name)=\"([^\"<>\n]{1,200})\"")
_OPENS_MARKUP = re.compile(r"[A-Za-z/!?]")
_OPENS_ENTITY = re.compile(r"#?\w{1,32};")


def strip_markup(text: str, *, stash: Stash, reasons: Counter[str], page: bool = False) -> str:
    """Prose without markup; code from <pre> is put into the stash.

    A whole HTML `page` has no meaning in its line ends, and its headings and list items become Markdown's.
    """
    if "<" in text or "{" in text:
        text = _SUPERSCRIPT.sub(r"(\1)", text)
        text = _Scanner(text, stash=stash, reasons=reasons, page=page).run()
    if "&" in text:
        text = _ENTITY.sub(lambda match: _unescape(match, reasons), text)
    return text


class _Scanner:
    """Where the pass over a text stands."""

    def __init__(self, text: str, *, stash: Stash, reasons: Counter[str], page: bool) -> None:
        self.text = text
        self.lower = text.lower() if len(text.lower()) == len(text) else text
        self.stash = stash
        self.reasons = reasons
        self.page = page
        self.pieces: list[str] = []
        self.absent: set[str] = set()
        """Ends that do not come any more: a text of a million unclosed comments is searched once."""
        self.has_heading = "<h1" in self.lower

    def run(self) -> str:
        place = 0
        while match := _OPENING.search(self.text, place):
            self._keep(self.text[place : match.start()])
            place = self._skip(match.start())
        self._keep(self.text[place:])
        return "".join(self.pieces)

    def _skip(self, start: int) -> int:
        """Where the text goes on after what begins at `start`."""
        for mark, end in _ENDS.items():
            if self.text.startswith(mark, start):
                stop = self._find(end, start + len(mark))
                return self._take_out(stop if stop is not None else start + len(mark))
        tag = _TAG.match(self.text, start)
        if tag is None or not self._is_markup(tag):
            self.pieces.append(self.text[start])
            return start + 1
        return self._take_out(self._skip_element(tag))

    def _skip_element(self, tag: re.Match[str]) -> int:
        name = tag["name"].lower()
        is_opening = not tag["close"] and not tag["rest"].endswith("/")
        drops = name in _DROPPED_WITH_TEXT or (name == "title" and self.page and self.has_heading)
        if is_opening and (drops or name == "pre"):
            stop = self._find(f"</{name}>", tag.end())
            if stop is not None:
                if name == "pre":
                    self._add_code(self.text[tag.end() : stop - len("</pre>")])
                return stop
        self._part(name, is_opening=is_opening)
        if tag["name"][0].isupper() and (label := _SHOWN.search(tag["rest"])):
            self.pieces.append(f"{label[1]}\n")
        return tag.end()

    def _is_markup(self, tag: re.Match[str]) -> bool:
        name = tag["name"]
        if (name.lower() in _ELEMENTS and (name.islower() or name.isupper())) or (tag["close"] and name[0].isupper()):
            return True
        start, stop = tag.span()
        before = self.text[start - 1 : start]
        if before.isalnum() or before in ("_", ".", "<"):
            return False
        if "=" in tag["rest"] or tag["rest"].endswith("/") or "-" in name:
            return True
        line_start = self.text.rfind("\n", max(0, start - 200), start) + 1
        begins = not self.text[line_start:start].strip(" \t>")
        return name[0].isupper() and begins and self.text[stop : stop + 1] in ("", "\n", " ", "<", "\r")

    def _find(self, end: str, start: int) -> int | None:
        if end in self.absent:
            return None
        stop = self.lower.find(end, start)
        if stop < 0:
            self.absent.add(end)
            return None
        return stop + len(end)

    def _add_code(self, inner: str) -> None:
        code = html.unescape(_TAG.sub("", inner)).strip("\n")
        self.pieces.append("\n\n" + self.stash.put_block(code) + "\n\n")

    def _part(self, name: str, *, is_opening: bool) -> None:
        last = self.pieces[-1][-1:] if self.pieces else ""
        if name in _BLOCKS and last not in ("", "\n"):
            self.pieces.append("\n")
        elif name in ("td", "th") and last not in ("", " ", "\n"):
            self.pieces.append(" ")
        if self.page and (name in _HEADINGS or name == "title"):
            self.pieces.append("\n" + (_HEADINGS.get(name, "# ") if is_opening else "\n"))
        elif self.page and name == "li" and is_opening:
            self.pieces.append("- ")
        elif self.page and name in ("p", "ul", "ol", "table", "section", "article"):
            self.pieces.append("\n")

    def _keep(self, text: str) -> None:
        if self.page:
            text = re.sub(r"\s+", " ", text)
            if not self.pieces or self.pieces[-1].endswith("\n"):
                text = text.lstrip()
        if text:
            self.pieces.append(text)

    def _take_out(self, stop: int) -> int:
        """What is taken out never makes markup of its neighbours."""
        self.reasons["html"] += 1
        if self.pieces and self.pieces[-1].endswith(("<", "{", "[", "!", "&", "`", "]")):
            self.pieces.append(" ")
        return stop


def _unescape(match: re.Match[str], reasons: Counter[str]) -> str:
    character = html.unescape(match[0])
    following = match.string[match.end() : match.end() + 40]
    is_markup = (
        character in "`\\{[*"
        or (character == "<" and _OPENS_MARKUP.match(following) and not _follows_a_name(match))
        or (character == "&" and _OPENS_ENTITY.match(following))
        or character == match[0]
    )
    if is_markup:
        return match[0]
    reasons["entities"] += 1
    if character.isspace():
        return " "
    return character if character.isprintable() else ""


def _follows_a_name(match: re.Match[str]) -> bool:
    """Whether `<` opens a generic type: List&lt;String&gt;."""
    before = match.string[match.start() - 1 : match.start()]
    name = re.match(r"[A-Za-z]\w*", match.string[match.end() : match.end() + 40])
    return before.isalnum() and name is not None and name[0].lower() not in _ELEMENTS
