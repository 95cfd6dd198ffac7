"""The one task: its name is the protocol's, its arguments are an attempt's id and its nonce."""

from typing import Any

from fai.celery import app
from ml.protocol import TRAIN_TASK


@app.task(name=TRAIN_TASK, bind=True)
def train(task: Any, attempt_id: int, nonce: str) -> None:
    task.app.session.runner.run(attempt_id, nonce)
