"""Requests that this process answers: it vouches for them in the database, so that the reaper leaves them alone.

One query renews all of them, however many streams there are. A process that is killed vouches no more.
"""

import asyncio
import contextvars
import logging
from weakref import WeakKeyDictionary

from django.db import DatabaseError
from django.utils import timezone

from inference import database
from inference.billing import charges
from inference.models import Completion

logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
RETRY_SECONDS = 1.0
"""While the database is away."""


class _Keeper:
    """Renews the leases of one event loop's requests, as long as there are any."""

    def __init__(self) -> None:
        self._completion_ids: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    def keep(self, completion_id: int) -> None:
        self._completion_ids.add(completion_id)
        if self._task is None or self._task.done():
            # A context of its own: the request's thread for queries ends with the request.
            self._task = asyncio.get_running_loop().create_task(self._renew(), context=contextvars.Context())

    def drop(self, completion_id: int) -> None:
        self._completion_ids.discard(completion_id)
        if not self._completion_ids and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _renew(self) -> None:
        pause_seconds = RENEW_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            try:
                await database.call(charges.renew, tuple(self._completion_ids), now=timezone.now())
                pause_seconds = RENEW_SECONDS
            except DatabaseError as error:
                logger.warning("leases are not renewed, the database cannot answer: %s", error)
                pause_seconds = RETRY_SECONDS


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Keeper] = WeakKeyDictionary()


def keep(completion: Completion) -> None:
    """Renew the request's lease until it is dropped."""
    _keepers.setdefault(asyncio.get_running_loop(), _Keeper()).keep(completion.pk)


def drop(completion: Completion) -> None:
    """The request is over."""
    _keepers[asyncio.get_running_loop()].drop(completion.pk)
