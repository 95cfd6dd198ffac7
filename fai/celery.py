"""The volunteer's Celery application: celery -A fai worker, no further flags. Nothing is read or opened on import."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu.entity import Queue

from fai.broker import connection_settings
from ml.protocol import BrokerAccount

if TYPE_CHECKING:
    from fai.config import WorkerConfig
    from fai.session import Session


class VolunteerApp(Celery):
    """Gets its broker from the coordinator when the worker starts."""

    session: "Session"
    config_for_worker: "WorkerConfig | None" = None
    """Set by `fai worker`; else the worker reads what is stored and the environment."""

    @cached_property
    def Worker(self) -> Any:  # noqa: N802  Celery's name
        return self.subclass_with_self("fai.worker:Worker")

    def use_broker(self, account: BrokerAccount) -> None:
        """Consume from the device's own queue with its own account."""
        settings = connection_settings(account)
        # Never declared: the account may only wait for messages.
        queue = Queue(account.queue, exchange="", routing_key=account.queue, no_declare=True)  # type: ignore[no-untyped-call]  # kombu is typed in part
        self.conf.update(settings, task_queues=[queue], task_default_queue=account.queue)
        self._account_url = account.url

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """The coordinator's Redis, even where CELERY_BROKER_URL is set for another project."""
        return self._connection(url or self._account_url, **options)


# No fixups: Celery would load Django wherever DJANGO_SETTINGS_MODULE is set.
app = VolunteerApp("fai", include=["fai.tasks"], set_as_current=False, fixups=[])
app.config_from_object("fai.celery_settings")
