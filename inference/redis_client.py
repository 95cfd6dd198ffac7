"""Redis from asynchronous code."""

import asyncio
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

MAX_CONNECTIONS = 4_096
"""Each stream under way waits on a connection of its own."""

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()


def client() -> Redis:
    """The Redis client of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = Redis.from_url(
            settings.REDIS_URL,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            max_connections=MAX_CONNECTIONS,
        )
    return _clients[loop]
