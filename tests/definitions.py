"""Parts of stage graphs as plain values, for tests."""

from __future__ import annotations

from typing import Any

NOTHING = {"type": "proposal", "proposal": {"actions": []}}


def stage(stage_id: str, step: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": stage_id, "step": step or NOTHING, **fields}


def pattern(kind: str, *names: str, task: str = "Do it", **config: Any) -> dict[str, Any]:
    agents = [{"name": name} for name in names]
    return {"type": "pattern", "pattern": kind, "task": task, "agents": agents, "config": config}


def proposal(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"type": "proposal", "proposal": {"actions": list(actions)}}


def call(tool: str | None = None, **parameters: Any) -> dict[str, Any]:
    return {"type": "tool_call", "tool": tool, "parameters": parameters}


def write(key: Any, value: Any = None) -> dict[str, Any]:
    return {"type": "state_write", "parameters": {"key": key, "value": value}}


def nested(*stages: Any, **fields: Any) -> dict[str, Any]:
    inner = {"id": "inner", "name": "Inner", "start": stages[0]["id"], "stages": stages, **fields}
    return {"type": "sub_workflow", "workflow": inner}


def edge(source: str, target: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"from": source, "to": target, "conditions": list(conditions)}


def graph(*stages: Any, edges: Any = (), **fields: Any) -> dict[str, Any]:
    start = stages[0]["id"] if stages else "a"
    return {"id": "g", "name": "G", "start": start, "stages": list(stages), "edges": list(edges), **fields}


APPROVAL = {"type": "approval", "prompt": "Go?", "output_key": "go"}
