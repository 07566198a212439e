"""What a process says about itself: one line for each event, JSON for machines or readable on a terminal.

Law: a line carries names, counts and sentences. What a run stores (prompts, outputs, payloads) and what is secret is
replaced by what can be said about it; a replayed workflow says nothing twice. The standard library's logging, and with
it the SDK's, takes the same way. Works inside the workflow sandbox: nothing is imported while a line is written.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, Literal, TextIO

import structlog
from pydantic import BaseModel, ValidationError
from structlog.typing import EventDict, Processor, WrappedLogger

from activities.secrets import without_values

LogFormat = Literal["auto", "json", "console"]

SECRET_WORDS = ("api_key", "apikey", "authorization", "password", "secret", "credential", "private_key", "codec_key")
# A field whose name holds one of these is never shown.

CONTENT_FIELDS = frozenset(
    (
        *("answer", "answers", "arguments", "content", "details", "input", "memo", "messages"),
        *("output", "payload", "payloads", "prompt", "result", "structured", "transcript"),
    )
)
# Fields that hold what a run stores: shown by their kind and length only.

LONGEST_TEXT = 8_000
# Longer texts are cut, with their length: a line must fit what log collectors take (commonly 16 KB).

LIBRARY_LOGGERS = (
    *("asyncio", "httpcore", "httpcore2", "httpx", "httpx2", "urllib3"),
    *("anthropic", "google_genai", "mcp", "openai"),
    *("boto3", "botocore", "s3transfer", "opentelemetry"),
)
# They report every request at level info, and at debug what is in it. The SDK's loggers are none of them: workflows and
# activities write by those.

STEP_MODULE = "activities.agents"
"""What raises from here as an ApplicationError has been told in full: the step is tried again."""

SDK_PACKAGES = ("temporalio", "asyncio", "concurrent", "threading")
"""The packages of a traceback in which there is nothing to mend."""

TEMPORAL_EXTRAS = ("temporal_workflow", "temporal_activity")
# Under these names the SDK's loggers hand over what the line is about, and append the same to the text.


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that configuring again replaces it and nobody else's."""


def configure(
    level: str = "info", format: LogFormat = "auto", stream: TextIO | None = None, *, library_level: str | None = None
) -> None:
    """Send structlog's and the standard library's lines to a stream (default: stderr), in one format.

    `library_level` is that of the libraries underneath; without one they tell what is wrong, as far as `level` lets it.
    Call it once, at the start.
    """
    stream = sys.stderr if stream is None else stream
    shared = _shared_processors()
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_drop_replayed, _take_temporal_extras, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(format, stream)],
        )
    )
    _install(handler, level.upper(), library_level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _drop_replayed,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a logger made before this call follows it too
    )


def _install(handler: logging.Handler, level: str, library_level: str | None) -> None:
    root = logging.getLogger()
    for other in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level)
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).setLevel(library_level.upper() if library_level else max(root.level, logging.WARNING))


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _explain_failure,
        _withhold,
    ]


def _renderer(format: LogFormat, stream: TextIO) -> Processor:
    if format == "json" or (format == "auto" and not stream.isatty()):
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        exception_formatter=structlog.dev.plain_traceback,  # the rich one prints local variables
        pad_event_to=0,
    )


def _drop_replayed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Silence while a workflow runs through what it has done before: it was said then."""
    workflow = sys.modules.get("temporalio.workflow")  # where it is not loaded, no workflow runs
    if workflow is not None and workflow.in_workflow() and workflow.unsafe.is_replaying_history_events():
        raise structlog.DropEvent
    return event


def _take_temporal_extras(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What the SDK tells about the run or step, as fields instead of as the end of the text."""
    record = event.get("_record")
    for name in TEMPORAL_EXTRAS:
        about = getattr(record, name, None)
        if isinstance(about, dict):
            event["event"] = str(event["event"]).removesuffix(f" ({about})")
            event.update({f"temporal_{key}": value for key, value in about.items()})
    return event


def _explain_failure(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A failure as one sentence where its type says who must act, else its traceback, without values."""
    error = _error_of(event.pop("exc_info", None))
    if error is None:
        return event
    errors = sys.modules.get("workflows.errors")
    if errors is not None and isinstance(error, (errors.PerdureError, errors.PayloadLocked)):
        event["error"] = str(error)  # which names the type
    elif isinstance(error, ValidationError):
        event["error"] = _unread(error)
    elif (told := _sentence(error)) is not None:
        event["error"] = told
    else:
        event["exception"] = _traceback(error)
    return event


def _sentence(error: BaseException) -> str | None:
    """An error that needs no traceback: an attempt that is made again, or what the SDK raised by itself."""
    modules = _modules(error)
    is_of_sdk = bool(modules) and all(name.partition(".")[0] in SDK_PACKAGES for name in modules)
    exceptions = sys.modules.get("temporalio.exceptions")
    if exceptions is not None and isinstance(error, exceptions.ApplicationError):
        return str(error) if is_of_sdk or modules[-1:] == [STEP_MODULE] else None  # its text names its type
    return f"{type(error).__name__}: {error}".removesuffix(": ") if is_of_sdk else None


def _modules(error: BaseException) -> list[str]:
    """The modules that an error came through, the innermost last."""
    trace, modules = error.__traceback__, list[str]()
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__")))
        trace = trace.tb_next
    return modules


def _error_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        error: BaseException | None = exc_info[1]
        return error
    return sys.exception() if exc_info else None


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).rstrip()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError):  # it quotes what it was given
            text = text.replace(str(cause), _unread(cause))
        cause = cause.__cause__ or cause.__context__
    return text


def _unread(error: ValidationError) -> str:
    return f"{error.title} cannot be read: {without_values(error)}"


def _withhold(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if not key.startswith("_"):
            event[key] = _shown(key.lower(), value)
    return event


def _shown(key: str, value: Any) -> Any:
    """A value as a line may carry it."""
    if any(word in key for word in SECRET_WORDS):
        return "(secret)"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"({len(value):,} bytes)"
    if isinstance(value, BaseModel):
        return f"({type(value).__name__})"
    if key in CONTENT_FIELDS and value is not None and not isinstance(value, (bool, int, float)):
        return f"({type(value).__name__}{f', {len(value):,} long' if hasattr(value, '__len__') else ''})"
    if isinstance(value, dict):
        return {name: _shown(str(name).lower(), item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_shown("", item) for item in value]
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value):,} characters)"
    return value
