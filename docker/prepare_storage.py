"""Waits for the S3 store of the settings and makes the bucket where it is missing: python docker/prepare_storage.py"""

import sys
import time
from typing import Any

import django
from botocore.exceptions import BotoCoreError, ClientError
from django.core.files.storage import storages
from storages.backends.s3 import S3Storage

PATIENCE_SECONDS = 180.0
"""Long enough for a store to start and for the proxy in front of it to get its certificate."""
DELAY_SECONDS = 3.0


class StorageNotReady(RuntimeError):
    """The store did not answer, or refused, for PATIENCE_SECONDS; the message has its last words."""


def main() -> int:
    django.setup()
    storage = storages["default"]
    if not isinstance(storage, S3Storage):
        return 0
    try:
        make_bucket(storage, patience_seconds=PATIENCE_SECONDS, delay_seconds=DELAY_SECONDS)
    except StorageNotReady as problem:
        print(f"prepare_storage: {problem}", file=sys.stderr)  # noqa: T201  the operator reads it
        return 1
    return 0


def make_bucket(storage: S3Storage, *, patience_seconds: float, delay_seconds: float) -> None:
    """Return once the bucket is there.

    Raises: StorageNotReady.
    """
    client = storage.connection.meta.client
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            if not _exists(client, storage.bucket_name):
                client.create_bucket(Bucket=storage.bucket_name)
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() + delay_seconds > deadline:
                raise StorageNotReady(f"bucket {storage.bucket_name!r}: {error}") from error
            time.sleep(delay_seconds)
        else:
            return


def _exists(client: Any, name: str) -> bool:
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


if __name__ == "__main__":
    sys.exit(main())
