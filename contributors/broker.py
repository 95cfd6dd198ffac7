"""Devices' accounts on Redis. Each may wait on its own queue and do nothing else.

An account's rules are RULES. What redis-py 8 and kombu 5.7 send beyond that on connecting was looked at: HELLO and AUTH
need no permission, CLIENT SETINFO is refused and ignored, SELECT is not sent for database 0 (so devices' queues are in
database 0), PING is a kombu health check.
"""

import functools
import hashlib
import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from ml.protocol import BrokerAccount, queue_name

RULES = ("resetkeys", "resetchannels", "~{queue}", "-@all", "+ping", "+brpop")

AWAY = (redis.ConnectionError, redis.TimeoutError)
NO_ACL_FILE = "not configured to use an ACL file"


class BrokerUnavailable(Exception):
    """Redis is away, so accounts can be neither made nor removed; trying again later is safe."""


def grant(device_id: int) -> str:
    """Password of a fresh account for the device; whoever is connected with an older one is disconnected.

    Raises: BrokerUnavailable.
    """
    password = secrets.token_urlsafe(32)
    # Redis keeps only the hash; sending the hash keeps the password out of MONITOR too.
    secret = f"#{hashlib.sha256(password.encode()).hexdigest()}"
    rules = (rule.format(queue=queue_name(device_id)) for rule in RULES)
    _run(("DELUSER", user_name(device_id)), ("SETUSER", user_name(device_id), "reset", "on", secret, *rules))
    return password


def withdraw(device_id: int) -> None:
    """Remove the device's account, its live connections and its waiting messages; nothing to do where there are none.

    Raises: BrokerUnavailable.
    """
    _run(("DELUSER", user_name(device_id)))
    try:
        _client(settings.REDIS_URL).delete(queue_name(device_id))
    except redis.RedisError as error:
        # Full, it refuses what a Redis that is away cannot answer.
        raise BrokerUnavailable(str(error)) from error


def public_account(*, device_id: int, password: str) -> BrokerAccount:
    """What the device needs to reach its queue from where it is."""
    address = urlsplit(settings.REDIS_PUBLIC_URL)
    host = address.netloc.rpartition("@")[2]
    return BrokerAccount(
        url=urlunsplit(address._replace(netloc=f"{user_name(device_id)}:{password}@{host}")),
        queue=queue_name(device_id),
        ca_certificate=Path(settings.REDIS_CA_FILE).read_text(encoding="ascii") if settings.REDIS_CA_FILE else None,
    )


def user_name(device_id: int) -> str:
    return f"w{device_id}"


def _run(*commands: tuple[str, ...]) -> None:
    """Run ACL commands in one round trip, and save the accounts so that they outlive a restart of Redis.

    A Redis without an ACL file keeps them until it restarts; the devices then register again, as after any loss.

    Raises: BrokerUnavailable.
    """
    pipeline = _client(settings.REDIS_ACL_URL).pipeline(transaction=False)
    for command in (*commands, ("SAVE",)):
        pipeline.execute_command("ACL", *command)  # type: ignore[no-untyped-call]
    try:
        *answers, saved = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise answer
    except AWAY as error:
        raise BrokerUnavailable(str(error)) from error
    if isinstance(saved, redis.RedisError) and NO_ACL_FILE not in str(saved):
        raise BrokerUnavailable(str(saved)) from saved


@functools.cache
def _client(url: str) -> redis.Redis:
    # One retry mends a connection that Redis's restart broke; more would keep a web request waiting.
    return redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=10, retry=Retry(NoBackoff(), 1))
