from dataclasses import replace

from inference.status import EngineStatus, Problem
from tests.inference.engines import make_status


def test_a_status_arrives_as_it_was_sent() -> None:
    status = replace(make_status(), problems=(Problem(subject="study@4", message="damaged", at=1.5),))
    assert EngineStatus.decode(status.encode()) == status
    assert status.model_names == ["study"]
