"""Whether a worker traces what its runs and steps do, and where to: as OpenTelemetry's own variables say.

Law: where nobody asked for traces nothing of OpenTelemetry is loaded, and a worker that cannot trace says why and
serves all the same: OTEL_… variables are often set for every process of a machine.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from activities.tracing import Tracing
from runtime.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from temporalio.contrib.opentelemetry import ReplaySafeTracerProvider
    from temporalio.worker import WorkerConfig

DISABLED = "OTEL_SDK_DISABLED"
EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SERVICE_NAME = "OTEL_SERVICE_NAME"
RESOURCE = "OTEL_RESOURCE_ATTRIBUTES"

HTTP = "http/protobuf"
SERVICE = "perdure"
"""The service that spans are of, unless the variables name another."""

FLUSH_SECONDS = 5.0
# What is left of a worker that has drained; a collector that is away must not keep it.


def tracing(settings: Settings, environ: Mapping[str, str] | None = None) -> Tracing | None:
    """How this process traces; None where nobody asked for it, or it cannot, which is then logged.

    Somebody asks by OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER, or by a tracer provider that is safe for
    replays.
    """
    environ = os.environ if environ is None else environ
    if environ.get(DISABLED, "").lower() == "true":
        return None
    if not _is_set_up() and not _set_up(environ):
        return None
    return Tracing(shows_content=settings.trace_content)


def _is_set_up() -> bool:
    """Whether this process has a tracer provider that is safe for replays: ours, or the user's own."""
    return "temporalio.contrib.opentelemetry" in sys.modules and _provider() is not None


def _provider() -> ReplaySafeTracerProvider | None:
    from opentelemetry.trace import get_tracer_provider
    from temporalio.contrib.opentelemetry import ReplaySafeTracerProvider

    found = get_tracer_provider()
    return found if isinstance(found, ReplaySafeTracerProvider) else None


def _set_up(environ: Mapping[str, str]) -> bool:
    """Set the process's tracer provider as its variables ask for; whether that could be done."""
    kind = environ.get(EXPORTER) or ("otlp" if any(environ.get(name) for name in ENDPOINTS) else "none")
    if kind == "none":
        return False
    try:
        return _provide(_exporter(kind, environ), environ)
    except ImportError as error:
        _warn(
            f"Nothing is traced: the variables of OpenTelemetry ask for it, and {error.name!r} is not installed. "
            "Install it with `pip install 'perdure[otel]'`."
        )
    except _CannotTrace as error:
        _warn(f"Nothing is traced: {error}")
    return False


@cache
def _warn(text: str) -> None:
    """Say something once in a process."""
    import structlog  # which clients that serve nothing must not wait for

    structlog.get_logger("perdure.telemetry").warning(text)


class _CannotTrace(Exception):
    """The variables ask for what there is not."""


def _exporter(kind: str, environ: Mapping[str, str]) -> SpanExporter:
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    if kind != "otlp":
        raise _CannotTrace(f"{EXPORTER} is {kind!r}, and takes 'otlp', 'console' or 'none'.")
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), HTTP)
    if protocol != HTTP:
        raise _CannotTrace(
            f"the OTLP protocol is {protocol!r}, and spans are sent by {HTTP!r} alone. Set {PROTOCOLS[1]} to that, and "
            "the endpoint to where the collector takes it, commonly port 4318."
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _provide(exporter: SpanExporter, environ: Mapping[str, str]) -> bool:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import get_tracer_provider, set_tracer_provider
    from temporalio.contrib.opentelemetry import create_tracer_provider

    if isinstance(get_tracer_provider(), TracerProvider):
        raise _CannotTrace(
            "this process has a tracer provider that would trace replays again. Make it with "
            "temporalio.contrib.opentelemetry.create_tracer_provider."
        )
    is_named = environ.get(SERVICE_NAME) or "service.name=" in environ.get(RESOURCE, "")
    provider = create_tracer_provider(resource=Resource.create({} if is_named else {"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    set_tracer_provider(provider)
    return True


def trace(config: WorkerConfig, settings: Settings) -> None:
    """Have a worker trace its runs and steps, where somebody asked for it."""
    if tracing(settings) is None:
        return
    from temporalio.contrib.opentelemetry import OpenTelemetryInterceptor

    from runtime.spans import SpansInterceptor

    given: list[Any] = list(config.get("interceptors") or ())
    of_client = config["client"].config(active_config=True)["interceptors"]
    # It brings the trace from the client to the run and from there to the step; a user's own plugin has it already.
    is_carried = any(isinstance(one, OpenTelemetryInterceptor) for one in (*given, *of_client))
    carrying = [] if is_carried else [OpenTelemetryInterceptor()]
    config["interceptors"] = [*carrying, SpansInterceptor(shows_content=settings.trace_content), *given]


async def flush() -> None:
    """Send the spans that wait to be sent, for some seconds at most."""
    if _is_set_up() and (provider := _provider()) is not None:
        await asyncio.to_thread(provider.force_flush, int(FLUSH_SECONDS * 1000))
