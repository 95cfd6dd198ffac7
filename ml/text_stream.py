"""The text of tokens as they come. No torch here, so that the web process may use it."""

import codecs
from collections import deque
from collections.abc import Sequence

from tokenizers import Tokenizer

from ml.tokenizer import token_bytes


class TextStream:
    """The text of tokens as they come, cut at the first stop text.

    What could still change is held back: half a UTF-8 character, or the beginning of a stop text.
    """

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._num_decoded = 0
        self._ends: deque[int] = deque()
        self.is_stopped = False
        self.num_tokens = 0
        """Tokens whose whole text was handed out, or that a stop text cut away."""
        self.offsets: list[int] = []
        """Where in the text each token begins; within a character, all of its tokens begin where it does."""

    def push(self, token: int) -> str:
        """The text that is certain with this token; it may be empty."""
        if self.is_stopped:
            return ""
        data = token_bytes(self._tokenizer, token)
        self.offsets.append(self._num_decoded + self._num_broken(data))
        decoded = self._decoder.decode(data)
        self._num_decoded += len(decoded)
        has_half_character = bool(self._decoder.getstate()[0])
        self._ends.append(self._num_decoded + has_half_character)
        return self._cut(decoded, is_last=False)

    def push_text(self, text: str, *, num_tokens: int) -> str:
        """The text that is certain with this one, of so many tokens, whole characters; it may be empty."""
        if self.is_stopped:
            return ""
        self._num_decoded += len(text)
        self._ends.extend([self._num_decoded] * num_tokens)
        return self._cut(text, is_last=False)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.is_stopped:
            return ""
        decoded = self._decoder.decode(b"", final=True)
        self._num_decoded += len(decoded)
        return self._cut(decoded, is_last=True)

    def _num_broken(self, data: bytes) -> int:
        """Replacement characters that half a character becomes which waits and with which the bytes do not go on."""
        goes_on = 0x80 <= data[0] < 0xC0
        return 0 if goes_on else len(self._decoder.getstate()[0].decode(errors="replace"))

    def _cut(self, decoded: str, *, is_last: bool) -> str:
        text = self._held + decoded
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.is_stopped = True
            num_certain = min(places)
            self._held = ""
        else:
            num_held = 0 if is_last else max((_overlap(text, stop) for stop in self._stop), default=0)
            num_certain = len(text) - num_held
            self._held = text[num_certain:]
        self._count()
        return text[:num_certain]

    def _count(self) -> None:
        num_handed_out = self._num_decoded - len(self._held)
        while self._ends and (self.is_stopped or self._ends[0] <= num_handed_out):
            self._ends.popleft()
            self.num_tokens += 1


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
