"""A graph that goes round so often that its run continues as new, several times."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from temporalio.client import Client

from benchmarks.measure import TASK_QUEUE
from benchmarks.results import NO_SIDE, NO_TARGET, Result

STAGES = 5_000
MOST_EVENTS = 51_200
# Temporal ends a run whose history reaches so many.


async def measure(client: Client, tell: Callable[[str], None]) -> list[Result]:
    """Run two stages in turns, an agent and a count of its answers, until there were 5,000 of them."""
    begun = time.perf_counter()
    handle = await client.start_workflow(
        "StageGraph", _loop(STAGES // 2), id=f"loop-{uuid.uuid4()}", task_queue=TASK_QUEUE
    )
    result = await handle.result()
    seconds = time.perf_counter() - begun
    events = await _events(client, handle.id, handle.first_execution_run_id)
    tell(f"a loop of {STAGES:,} stages: {seconds:.0f} s, {len(events)} histories of {events} events")
    in_order = [stage["stage_id"] for stage in result["stages"]] == ["ask", "count"] * (STAGES // 2)
    succeeded = sum(stage["status"] == "succeeded" for stage in result["stages"])
    counted = len(result["final_state"]["count"])
    case = f"A loop of {STAGES:,} stages"
    is_whole = in_order and succeeded == STAGES and counted == STAGES // 2
    whole, most = f"{succeeded:,} stages, counted {counted:,}", f"{max(events):,}"
    return [
        Result(case, "its result", f"{STAGES:,} stages, counted {STAGES // 2:,}", whole, whole, NO_SIDE, is_whole),
        Result(case, "events of a history", f"< {MOST_EVENTS:,}", most, most, NO_SIDE, max(events) < MOST_EVENTS),
        Result(case, "histories", "> 1", str(len(events)), str(len(events)), NO_SIDE, len(events) > 1),
        Result(case, "seconds", NO_TARGET, f"{seconds:.0f}", f"{seconds:.0f}", NO_SIDE, is_met=True),
    ]


def _loop(rounds: int) -> dict[str, Any]:
    ask = {"type": "pattern", "pattern": "pipeline", "task": "round {{count}}", "agents": [{"name": "echo"}]}
    write = {"type": "state_write", "id": "w", "parameters": {"key": "count", "value": "{{count}}+"}}
    return {
        "id": "loop",
        "name": "Loop",
        "start": "ask",
        "stages": [
            {"id": "ask", "step": ask},
            {"id": "count", "step": {"type": "proposal", "proposal": {"id": "p", "actions": [write]}}},
        ],
        "edges": [
            {"from": "ask", "to": "count"},
            {"from": "count", "to": "ask", "conditions": [{"key": "count", "operator": "lt", "value": "+" * rounds}]},
        ],
        "initial_state": {"count": ""},
        "max_iterations": 2 * rounds,
    }


async def _events(client: Client, workflow_id: str, run_id: str | None) -> list[int]:
    """Of each history, the first one first."""
    lengths: list[int] = []
    while run_id:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        lengths.append((await handle.describe()).history_length)
        last = [event async for event in handle.fetch_history_events()][-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return lengths
