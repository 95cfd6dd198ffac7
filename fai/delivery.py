"""Handing in finished work, through every interruption, until the coordinator has acknowledged it."""

from collections.abc import Callable

from fai.client import Client, CoordinatorError
from fai.outbox import Entry, Outbox
from ml.protocol import Receipt

TRIES = 3
AGAIN_CODES = ("wrong_sha256", "delta_missing")
"""The upload has to begin anew."""
UNDECIDED_CODES = ("unexpected_answer",)
"""Something between here and the coordinator answered; its word does not count."""


class NotWanted(Exception):
    """The coordinator will not take this work; `reason` is a protocol.Reason or a code, and the entry is gone."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def deliver(entry: Entry, *, client: Client, outbox: Outbox, on_piece: Callable[[int], None]) -> Receipt:
    """Hand in, and remove the entry.

    Raises: NotWanted; what `on_piece` raises; CoordinatorUnreachable when waiting had to end, and CoordinatorError when
    the key is refused: the entry stays for the next start.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            receipt = client.hand_in(
                entry.attempt_id, entry.delta_path, sha256=entry.sha256, report=entry.report, on_piece=on_piece
            )
        except CoordinatorError as error:
            if error.is_final_for_device or error.code in UNDECIDED_CODES:
                raise
            if error.code in AGAIN_CODES and tries_left:
                continue
            outbox.remove(entry.attempt_id)
            raise NotWanted(error.code) from error
        else:
            outbox.remove(entry.attempt_id)
            return receipt
    raise AssertionError("unreachable")
