"""Judges large graphs outside the workflow: it takes as long as the graph is large, and a workflow task must not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from temporalio import activity

from workflows import wire
from workflows.graph.verdict import Verdict
from workflows.graph.verify import verify_graph as judge

MOST_LISTED = 500
# Issues. A run tells each doubt as an event, and a graph of 1.9 MB has room for 90,000 of them: too many for one
# payload, and for the log of a run.


@activity.defn(name=wire.VERIFY_GRAPH)
async def verify_graph(definition: Any, given: Sequence[str] = ()) -> dict[str, Any]:
    """The verdict on a graph as a run needs it, with the state keys that its start brings. Pure: it may run twice."""
    return _short(await asyncio.to_thread(judge, definition, given=given)).model_dump(mode="json")


def _short(verdict: Verdict) -> Verdict:
    """Whether the graph can run, and the first of the issues that decide it: its errors, or its doubts without any."""
    issues = verdict.with_severity("error") or verdict.with_severity("doubt")
    return Verdict(
        valid=verdict.valid,
        issues=issues[:MOST_LISTED],
        reachable_stages=(),
        unreachable_stages=(),
        has_cycles=verdict.has_cycles,
        estimate=None,
        waves=(),
        left_out=max(0, len(issues) - MOST_LISTED),
    )
