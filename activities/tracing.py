"""Whether this worker's steps are traced, and how. Loads nothing: `runtime.telemetry` decides it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tracing:
    """That spans of model calls and tools are made, by OpenTelemetry's global tracer provider."""

    shows_content: bool = False
    """Whether prompts, answers, arguments and results are in them."""
