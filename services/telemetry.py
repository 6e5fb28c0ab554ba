"""Telemetry: structured log lines, the request id they carry, and readiness of a process."""

from __future__ import annotations

import logging
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from services.settings import ProcessSettings

READY_FILE_VARIABLE: Final = "TERCET_READY_FILE"

request_id_var: ContextVar[str] = ContextVar("request_id", default="")


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines are an event name and key-value pairs."""
    return structlog.stdlib.get_logger(name)


def configure_logging(process_name: str, settings: ProcessSettings) -> None:
    """Send structlog and the standard library's loggers to stderr in one form.

    JSON keeps one event on one line whatever it contains: a line break in a value is escaped.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        structlog.processors.format_exc_info,
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_dumps)
        if settings.log_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    structlog.contextvars.bind_contextvars(process=process_name)
    # httpx logs every request with its address at INFO; the caller's own line says what matters.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def mark_ready() -> None:
    """Say that this process is ready: to the log, and to the file its supervisor watches."""
    path = os.environ.get(READY_FILE_VARIABLE)
    if path:
        Path(path).touch()
    logger(__name__).info("ready", pid=os.getpid())


def _add_request_id(
    _: Any, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    request_id = request_id_var.get()
    if request_id:
        event["request_id"] = request_id
    return event


def _dumps(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=str).decode()
