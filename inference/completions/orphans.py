"""Requests that lost their web process: an engine would generate to their end, for nobody."""

import logging
from collections.abc import Iterable

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError

from inference import wire
from inference.openai.fields import MAX_CHOICES

logger = logging.getLogger(__name__)


def cancel(request_ids: Iterable[str]) -> None:
    """Tell the engines that nobody reads any choice of these requests; where Redis is away, they find no reader."""
    with Redis.from_url(settings.REDIS_URL) as redis:
        pipeline = redis.pipeline(transaction=False)
        for each_try in (name for request_id in request_ids for name in wire.try_ids(request_id)):
            pipeline.sadd(wire.cancel_key(each_try), *range(MAX_CHOICES))
            pipeline.expire(wire.cancel_key(each_try), wire.CANCEL_SECONDS)
            pipeline.delete(wire.stream_key(each_try))
        try:
            pipeline.execute()
        except RedisError as error:
            logger.warning("requests that nobody reads go on to their ends: %s", error)
