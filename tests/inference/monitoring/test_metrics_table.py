"""The table of metrics in docs/operating.md against what is counted."""

import re

import pytest

from inference.engine import metrics as engine_metrics
from inference.monitoring import metrics, page
from tests.variables import ROOT

OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")


def written(part: str) -> set[str]:
    return set(re.findall(rf"^\| `(fai_\w+)` \| {part} \|", OPERATING, re.MULTILINE))


def sample_names(collector: object) -> set[str]:
    return {f"{m.name}_total" if m.type == "counter" else m.name for m in collector.collect()}  # type: ignore[attr-defined]


def test_every_metric_of_an_engine_is_in_the_table() -> None:
    assert sample_names(engine_metrics.REGISTRY) == written("engine")


@pytest.mark.django_db
def test_every_metric_of_the_web_process_is_in_the_table(redis_settings: object) -> None:
    ours = {name for name in sample_names(page.registry()) if name.startswith("fai_")}
    assert metrics.HTTP_REQUESTS._name == "fai_http_requests"
    assert ours == written("web")
