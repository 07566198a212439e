"""What large stage graphs cost: reading and judging a definition, and the longest activation of a run."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, TypeVar

import yaml
from temporalio.client import Client, WorkflowFailureError

from benchmarks.by_verbs import row_of_stages
from benchmarks.measure import TASK_QUEUE
from benchmarks.stopwatch import ACTIVATIONS, Activation
from workflows import verify_graph, wire

STAGES = 10_000
READINGS = 3

Graph = dict[str, Any]
T = TypeVar("T")


def _graph(*stages: Graph, **fields: Any) -> Graph:
    return {"id": "benchmark", "name": "Benchmark", "start": stages[0]["id"], "stages": stages, **fields}


def _large() -> Graph:
    """Each stage has a name, a prompt and a reference to the answer before it; each edge has a condition."""
    graph = row_of_stages(STAGES)
    for number, stage in enumerate(graph["stages"]):
        stage["name"] = f"Stage {number}"
        stage["step"]["agents"][0]["system_prompt"] = "You echo."
        if number:
            stage["step"]["task"] += f" after {{{{stage.step-{number - 1}.answer}}}}"
    for edge in graph["edges"]:
        edge["conditions"] = [{"key": f"stage.{edge['from']}.succeeded", "value": True}]
    return graph


async def in_own_process(measure: Callable[[], T]) -> T:
    """What a measurement comes to where no worker and no history stands beside it: as for a person who waits for it."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
        return await asyncio.get_running_loop().run_in_executor(processes, measure)


def reading_seconds() -> dict[str, float]:
    """CPU seconds that reading and judging a definition of 10,000 stages takes, by format; the median of three."""
    graph = _large()
    texts = {"large.json": json.dumps(graph), "large.yaml": yaml.safe_dump(graph, sort_keys=False)}
    return {name: statistics.median([_judged(text, name) for _ in range(READINGS)]) for name, text in texts.items()}


def _judged(text: str, name: str) -> float:
    begun = time.process_time()
    verdict = verify_graph(text, file=name)
    seconds = time.process_time() - begun
    if verdict.issues:
        raise AssertionError(f"{name} should have no issues, and has {verdict.issues[0]}")
    return seconds


def _action(number: int) -> Graph:
    return {"type": "state_write", "parameters": {"key": f"k{number}", "value": number}}


def _writing(number: int) -> Graph:
    return {"id": f"s{number}", "step": {"type": "proposal", "proposal": {"actions": [_action(number)]}}}


def _a_row() -> Graph:
    stages = [_writing(number) for number in range(STAGES)]
    edges = [{"from": f"s{number}", "to": f"s{number + 1}"} for number in range(STAGES - 1)]
    return _graph(*stages, edges=edges, max_iterations=STAGES)


def _many_agents() -> Graph:
    agents = [{"name": f"agent-{number}"} for number in range(12_001)]
    return _graph({"id": "fleet", "step": {"type": "pattern", "pattern": "fleet", "task": "?", "agents": agents}})


def _many_items() -> Graph:
    body = {"type": "proposal", "proposal": {"actions": [{"type": "state_read", "parameters": {"key": "item"}}]}}
    step = {"type": "for_each", "items_from": "items", "body": body}
    return _graph({"id": "each", "step": step}, initial_state={"items": list(range(5_000))})


def _growing_value() -> Graph:
    write = {"type": "state_write", "parameters": {"key": "n", "value": ["{{n}}", "{{n}}"]}}
    stage = {"id": "grow", "step": {"type": "proposal", "proposal": {"actions": [write]}}}
    return _graph(stage, edges=[{"from": "grow", "to": "grow"}], initial_state={"n": 0})


LARGE: dict[str, Callable[[], Graph]] = {
    "A graph of 10,000 stages without a step": _a_row,
    "A graph of one stage with 12,001 agents, one more than a run takes": _many_agents,
    "A `for_each` of 5,000 items without a step": _many_items,
    "A graph that doubles a value up to 30,000 lists": _growing_value,
}


async def longest_activation_of(client: Client, graph: Graph) -> Activation:
    """The longest activation of a graph's run, however it ends; the worker must run in this process."""
    ACTIVATIONS.clear()
    gc.collect()
    gc.freeze()  # the histories that the benchmark keeps are in no other worker's heap
    handle = await client.start_workflow(
        wire.STAGE_GRAPH_WORKFLOW, graph, id=f"large-{uuid.uuid4()}", task_queue=TASK_QUEUE
    )
    with suppress(WorkflowFailureError):  # some are too large to complete, and how they end takes time too
        await handle.result()
    return max(ACTIVATIONS, key=lambda activation: activation.wall_seconds)
