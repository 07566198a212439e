"""A history as a replay test keeps it: all that a replay needs, and nothing that names a process or a machine."""

from __future__ import annotations

import json
from typing import Any

from temporalio.client import WorkflowHistory

LEFT_OUT = frozenset({"identity", "stackTrace"})
# The first holds process id and host name, in every event that a client or a worker caused; the second the paths of
# the machine on which something failed. A replay reads neither.

STICKY = "TASK_QUEUE_KIND_STICKY"
# The name of a worker's own queue holds its process id and host name too.


def recorded(history: WorkflowHistory) -> str:
    """The history as JSON, one event a line, so that a change to it can be read."""
    events = [json.dumps(_anonymous(event), separators=(",", ":")) for event in history.to_json_dict()["events"]]
    return '{"events":[\n' + ",\n".join(events) + "\n]}\n"


def _anonymous(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") == STICKY:
        return {**value, "name": value.get("normalName", "")}
    if isinstance(value, dict):
        return {key: _anonymous(item) for key, item in value.items() if key not in LEFT_OUT}
    if isinstance(value, list):
        return [_anonymous(item) for item in value]
    return value
