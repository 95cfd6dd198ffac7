"""Names for samples that every file system takes, whatever the raw file was called."""

import hashlib
import re
import unicodedata
from pathlib import Path

SUFFIX = ".txt"
MAX_NAME_BYTES = 200
# What Windows refuses, and what a terminal would obey.
_REFUSED = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\u2028\u2029]|[. ](?=\Z)')


def place_sample(root: Path, path_name: str) -> Path:
    """The path below root for the sample of `path_name`, a path parted by slashes; its folder exists afterwards.

    A part that cannot be a name is escaped or cut, and a name that is taken (by a file of another raw folder, or where
    the file system sees no difference between a and A) is numbered.
    """
    *folders, last = (_safe(part) for part in path_name.split("/"))
    folder = root
    for name in folders:
        folder = folder / name
        while folder.is_file():
            folder = folder.with_name(f"{folder.name}~")
        folder.mkdir(exist_ok=True)
    path = folder / f"{last}{SUFFIX}"
    number = 2
    while path.exists():
        path = folder / f"{last}~{number}{SUFFIX}"
        number += 1
    return path


def _safe(part: str) -> str:
    name = _REFUSED.sub(lambda match: f"%{ord(match[0]):02X}", unicodedata.normalize("NFC", part))
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    # The name's end is its kind, by which the language of a document is told.
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    end = encoded[-16:].decode(errors="ignore")
    return f"{encoded[: MAX_NAME_BYTES - 40].decode(errors='ignore')}~{digest}~{end}"
