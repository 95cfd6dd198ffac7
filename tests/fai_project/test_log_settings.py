import json
import logging

import pytest

from fai_project.log_settings import JsonLines, LineFormatter, logging_settings


def record(**extras: object) -> logging.LogRecord:
    made = logging.LogRecord("inference", logging.INFO, "file.py", 1, "request %s", ("done",), None)
    vars(made).update(extras)
    return made


def test_a_json_line_has_what_the_record_carries() -> None:
    line = json.loads(JsonLines().format(record(request_id="req_1", model="study", tokens=3, text="가족")))
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "inference", "request done")
    assert (line["request_id"], line["model"], line["tokens"], line["text"]) == ("req_1", "study", 3, "가족")
    assert "time" in line


def test_a_line_for_a_terminal_has_it_as_well() -> None:
    line = LineFormatter("%(levelname)s %(message)s").format(record(request_id="req_1", model="study", key=None))
    assert line == "INFO request done model=study request_id=req_1"


def test_a_record_that_carries_nothing_is_its_message_alone() -> None:
    assert LineFormatter("%(message)s").format(record(request_id="")) == "request done"


@pytest.mark.parametrize("log_format", ["line", "json"])
def test_both_formats_are_known_to_the_settings(log_format: str) -> None:
    settings = logging_settings(log_format)
    assert settings["handlers"]["console"]["formatter"] in settings["formatters"]
    assert ("uvicorn.access" in settings["loggers"]) == (log_format == "json")
