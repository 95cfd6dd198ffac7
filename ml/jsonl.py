"""Documents of JSONL files: {"text": ...} on each line, with "language" and "site" where they are known."""

import codecs
import json
from typing import Any

SUFFIX = ".jsonl"


class NoDocument(ValueError):
    """A line that is no document; the message says why."""


def parse_line(line: bytes) -> dict[str, Any]:
    """The document, whose text is Unicode and is not empty.

    Raises: NoDocument.
    """
    try:
        document = json.loads(line.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise NoDocument(f"no JSON ({error})") from error
    except RecursionError:
        raise NoDocument("no JSON (nested too deep)") from None
    if not isinstance(document, dict) or not isinstance(document.get("text"), str):
        raise NoDocument('no {"text": "..."}')
    if not document["text"].strip():
        raise NoDocument("an empty text")
    # JSON can write half of a surrogate pair, which no UTF-8 holds.
    return document | {"text": document["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")}
