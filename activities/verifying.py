"""Judges large graphs outside the workflow: it takes as long as the graph is large, and a workflow task must not."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity

from workflows import wire
from workflows.graph.verify import verify_graph as judge


@activity.defn(name=wire.VERIFY_GRAPH)
async def verify_graph(definition: Any) -> dict[str, Any]:
    """The verdict on a graph, without its estimate and waves. Pure, so running twice is safe."""
    verdict = await asyncio.to_thread(judge, definition)
    return verdict.model_copy(update={"reachable_stages": (), "waves": (), "estimate": None}).model_dump(mode="json")
