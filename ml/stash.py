"""Pieces of a text that no rule may touch, put away while the rules run."""

import re

# Private characters: in a document they are a font's icons, which are no text.
OPEN, CLOSE = "\ue000", "\ue001"
_PLACE = re.compile(f"{OPEN}(\\d+){CLOSE}")


class Stash:
    """Keeps pieces, and gives a mark for each."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def put(self, piece: str) -> str:
        """The mark to write in the piece's place."""
        self._pieces.append(piece)
        return f"{OPEN}{len(self._pieces) - 1}{CLOSE}"

    def put_block(self, code: str) -> str:
        """The mark of a fenced block with that code, its fence longer than any in the code."""
        longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
        fence = "`" * max(3, longest + 1)
        return self.put(f"{fence}\n{code}\n{fence}")

    def restore(self, text: str) -> str:
        """The text with the pieces back in their places."""
        return _PLACE.sub(lambda match: self._pieces[int(match[1])], text) if self._pieces else text
