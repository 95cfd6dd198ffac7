"""How processes log: lines for a terminal, or JSON for a collector; each with the id of its HTTP request."""

import logging
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_KNOWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "request_id", "taskName"}


class LineFormatter(logging.Formatter):
    """The message, then what else the record carries as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        extras = {name: value for name, value in vars(record).items() if name not in _KNOWN and not _is_foreign(name)}
        if request_id := getattr(record, "request_id", ""):
            extras["request_id"] = request_id
        told = " ".join(f"{name}={value}" for name, value in extras.items() if value is not None)
        line = super().format(record)
        return f"{line} {told}" if told and not record.exc_info else line


class JsonLines(JsonFormatter):
    """One JSON object a line."""

    def __init__(self) -> None:
        super().__init__(
            "{asctime}{levelname}{name}{message}{request_id}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            json_ensure_ascii=False,
        )


def logging_settings(log_format: str) -> dict[str, Any]:
    """LOGGING in the format `line` or `json`; uvicorn's own lines then are JSON as well."""
    quiet = {"handlers": ["console"], "level": "INFO", "propagate": False}
    servers = {"uvicorn": quiet, "uvicorn.access": quiet} if log_format == "json" else {}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_ids": {"()": "inference.monitoring.tracing.RequestIds"}},
        "formatters": {
            "line": {
                "()": "fai_project.log_settings.LineFormatter",
                "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
            },
            "json": {"()": "fai_project.log_settings.JsonLines"},
        },
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": log_format, "filters": ["request_ids"]},
        },
        "root": {"handlers": ["console"], "level": "INFO"},
        # Its own handlers write to the console only while DEBUG is on.
        "loggers": {"django": quiet, "httpx": {"level": "WARNING"}, **servers},
    }


def _is_foreign(name: str) -> bool:
    """Django's and uvicorn's own objects on a record, which are no news in a line."""
    return name in {"request", "server_time", "status_code", "color_message", "data"}
