"""Devices' broker accounts on a real Redis, with the very client that a volunteer's worker uses."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import kombu
import pytest
import redis
from celery import Celery

from contributors import broker
from ml.protocol import TRAIN_TASK, queue_name
from tests.contributors.make import connect

TRANSPORT_OPTIONS = {"ack_emulation": False, "priority_steps": [0], "health_check_interval": 1}


def queue_of(device_id):
    return kombu.Queue(queue_name(device_id), exchange="", routing_key=queue_name(device_id), no_declare=True)


def publish(redis_server, device_id, *arguments):
    with Celery("publisher", broker=redis_server.url, set_as_current=False) as app:
        app.send_task(TRAIN_TASK, args=arguments, queue=queue_of(device_id))


def test_a_kombu_consumer_receives_its_jobs_with_these_rights_alone(redis_settings):
    account = broker.public_account(device_id=1, password=broker.grant(1))
    received = []

    def take(body, message):
        received.append(body[0])
        message.ack()

    with (
        kombu.Connection(account.url, transport_options=TRANSPORT_OPTIONS) as connection,
        connection.Consumer([queue_of(1)], callbacks=[take], accept=["json"]),
    ):
        for number in range(3):
            publish(redis_settings, 1, number, "nonce")
        while len(received) < 3:
            connection.drain_events(timeout=5)
    assert received == [[0, "nonce"], [1, "nonce"], [2, "nonce"]]


def test_withdrawal_ends_a_live_connection_at_once_and_refuses_the_next_login(redis_settings):
    account = broker.public_account(device_id=2, password=broker.grant(2))
    has_logged_in = threading.Event()

    def wait_for_jobs():
        with connect(account.url) as connection:
            connection.ping()
            has_logged_in.set()
            started = time.monotonic()
            with pytest.raises(redis.ConnectionError):
                connection.brpop([account.queue], timeout=4)
            return time.monotonic() - started

    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(wait_for_jobs)
        assert has_logged_in.wait(5)
        time.sleep(0.2)
        broker.withdraw(2)
        assert waited.result(10) < 3
    with pytest.raises(redis.AuthenticationError):
        connect(account.url).ping()


def test_withdrawal_empties_the_queue_and_may_be_repeated(redis_settings):
    broker.grant(3)
    publish(redis_settings, 3, 1, "nonce")
    coordinator = connect(redis_settings.url)
    assert coordinator.llen("w:3:jobs") == 1
    broker.withdraw(3)
    broker.withdraw(3)
    assert coordinator.llen("w:3:jobs") == 0


def test_a_redis_that_refuses_to_write_counts_as_away(refusing_redis, settings):
    settings.REDIS_URL = settings.REDIS_ACL_URL = refusing_redis
    with pytest.raises(broker.BrokerUnavailable, match="NOREPLICAS"):
        broker.withdraw(3)


def test_accounts_and_waiting_messages_outlive_a_restart_of_redis(redis_settings):
    account = broker.public_account(device_id=4, password=broker.grant(4))
    publish(redis_settings, 4, 1, "nonce")
    redis_settings.stop()
    with pytest.raises(broker.BrokerUnavailable):
        broker.grant(5)
    redis_settings.start()
    assert connect(account.url).brpop([account.queue], timeout=1) is not None
    broker.grant(5)
