"""/metrics of the web process: what it counted, and what it sees of engines and holds."""

import hmac
import logging
from collections.abc import Iterable, Iterator

from django.conf import settings
from django.db import OperationalError
from django.db.models import Count, Sum
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from contributors.models import Hold
from inference.monitoring import living

logger = logging.getLogger(__name__)


@require_safe
def show_metrics(request: HttpRequest) -> HttpResponse:
    """Everything, to whoever has FAI_METRICS_TOKEN; without that setting there is no such page."""
    if not settings.METRICS_TOKEN:
        raise Http404
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), settings.METRICS_TOKEN.encode()):
        return HttpResponse("a bearer token is needed\n", status=401, headers={"WWW-Authenticate": "Bearer"})
    return HttpResponse(generate_latest(registry()), content_type=CONTENT_TYPE_LATEST)


def registry() -> CollectorRegistry:
    """This process's metrics, or those of all processes that share FAI_METRICS_DIR; and what is seen from outside."""
    found = CollectorRegistry()
    if settings.METRICS_DIR:
        MultiProcessCollector(found)  # type: ignore[no-untyped-call]
    else:
        found.register(_Own())
    found.register(_Shared())
    return found


class _Own(Collector):
    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()


class _Shared(Collector):
    """What every process sees alike, looked up at each scrape; what cannot be reached is left out."""

    def collect(self) -> Iterator[Metric]:
        try:
            yield from _engines()
        except RedisError as error:
            logger.warning("no metrics of the engines, Redis is away: %s", error)
        try:
            yield from _holds()
        except OperationalError as error:
            logger.warning("no metrics of holds, the database is away: %s", error)


def _engines() -> Iterator[Metric]:
    engines = living.engines()
    lengths = GaugeMetricFamily("fai_queue_requests", "Requests that no engine has taken.", labels=["model"])
    waits = GaugeMetricFamily("fai_queue_wait_seconds", "How long the next one has waited.", labels=["model"])
    for queue in living.queues(engines):
        lengths.add_metric([queue.model], queue.num_requests)
        waits.add_metric([queue.model], queue.wait_seconds)
    yield GaugeMetricFamily("fai_engines", "Living engines.", value=len(engines))
    problems = sum(len(engine.problems) for engine in engines)
    yield GaugeMetricFamily("fai_problems", "Problems that living engines report.", value=problems)
    yield lengths
    yield waits


def _holds() -> Iterator[Metric]:
    held = Hold.objects.filter(state=Hold.State.OPEN).aggregate(num=Count("pk"), credits=Sum("amount"))
    yield GaugeMetricFamily("fai_open_holds", "Requests that hold credits.", value=held["num"])
    yield GaugeMetricFamily("fai_held_credits", "Credits that they hold.", value=held["credits"] or 0)
