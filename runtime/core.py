"""The SDK's core, which does its work outside Python: what it logs goes the way of every other line, if it is wrong."""

from __future__ import annotations

import logging

from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)


def core(metrics: PrometheusConfig | None = None) -> Runtime:
    """A core that forwards its warnings to the logger `temporalio.core`.

    Raises RuntimeError or ValueError where its metrics cannot be served.
    """
    forwarding = LogForwardingConfig(
        logging.getLogger("temporalio.core"), append_target_to_name=False, prepend_target_on_message=False
    )
    warnings = TelemetryFilter(core_level="WARN", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(warnings, forwarding=forwarding), metrics=metrics))
