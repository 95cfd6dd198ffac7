"""Celery settings of the control plane. The database is the truth: a lost message costs one tick, not a job."""

from django.conf import settings
from kombu.entity import Queue

broker_url = settings.REDIS_URL
broker_connection_max_retries = None
broker_connection_retry_on_startup = True
# A Redis whose disk or memory is full refuses to write with one of these; a worker that ended would stay away.
broker_channel_error_retry = True
broker_transport_options = {
    # Restoring unacknowledged messages made a worker exit when Redis went away; the reaper restores from the database.
    "ack_emulation": False,
    "priority_steps": [0],
    "socket_connect_timeout": 10,
    "socket_timeout": 15,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
task_ignore_result = True
task_serializer = "json"
accept_content = ["json"]
task_default_queue = "control"
task_queues = [
    Queue(name)  # type: ignore[no-untyped-call]
    for name in ("control", "data", "merge", "evaluate")
]
task_routes = {
    "training.tasks.dispatch": {"queue": "control"},
    "training.tasks.reap": {"queue": "control"},
    "training.tasks.sweep": {"queue": "data"},
    "inference.tasks.reap": {"queue": "control"},
    "inference.tasks.sweep": {"queue": "control"},
    "training.tasks.prepare": {"queue": "data"},
    "training.tasks.validate": {"queue": "data"},
    "training.tasks.merge": {"queue": "merge"},
    "training.tasks.evaluate": {"queue": "evaluate"},
}
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = False
worker_send_task_events = False
beat_schedule = {
    name: {
        "task": f"training.tasks.{name}",
        "schedule": settings.TICK_SECONDS,
        # A tick that no worker took before the next one is due is worth nothing.
        "options": {"expires": settings.TICK_SECONDS},
    }
    for name in ("dispatch", "reap")
} | {
    "sweep": {"task": "training.tasks.sweep", "schedule": 3_600.0, "options": {"expires": 3_600.0}},
    "reap completions": {"task": "inference.tasks.reap", "schedule": 10.0, "options": {"expires": 10.0}},
    "sweep answers": {"task": "inference.tasks.sweep", "schedule": 600.0, "options": {"expires": 600.0}},
}
