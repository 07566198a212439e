"""Running stage graphs in tests: plain JSON in, the result without its clock out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError

from tests.definitions import edge, graph, nested, pattern, proposal, stage, write
from tests.support import World, events_of, failure_of, wait_until

CLOCK = {"duration_ms", "total_duration_ms", "timestamp", "asked"}
FAILURE = "stage 'proposal' failed: precondition failed: state['never'] is not set, expected exists"
"""Error of a stage whose step is `fails()`."""


def writes(**values: Any) -> dict[str, Any]:
    """A step that writes state keys."""
    return proposal(*(write(key, value) for key, value in values.items()))


def fails() -> dict[str, Any]:
    """A step that fails, with `FAILURE`."""
    return proposal(check("never", operator="exists"))


def check(key: str, value: Any = None, operator: str = "eq") -> dict[str, Any]:
    """An assertion."""
    return {"type": "assertion", "preconditions": [when(key, value, operator)]}


def when(key: str, value: Any = None, operator: str = "eq") -> dict[str, Any]:
    """A condition."""
    return {"key": key, "operator": operator, "value": value}


def asks(agent: str, task: str = "Do it") -> dict[str, Any]:
    """A step that asks one agent."""
    return pattern("pipeline", agent, task=task)


def each(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A step that runs another for each of the state's `items`."""
    return {"type": "for_each", "items_from": "items", "body": body, **fields}


def lingers() -> dict[str, Any]:
    """A step of an item that ends at once, unless the item is "slow"."""
    return nested(
        stage("go"),
        stage("late", asks("slow", "{{item}}")),
        edges=[edge("go", "late", when("item", "slow"))],
        initial_state={"item": "{{item}}"},
    )


def undo(**values: Any) -> dict[str, Any]:
    """A compensation that writes state keys."""
    return {"type": "proposal", "proposal": writes(**values)["proposal"]}


def ref(stage_id: str) -> dict[str, Any]:
    """A compensation by another stage's step."""
    return {"type": "stage_ref", "stage_id": stage_id}


def row(*stages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A graph of stages one after the other."""
    ids = [each["id"] for each in stages]
    return graph(*stages, edges=[edge(*pair) for pair in pairwise(ids)], **fields)


def timeless(value: Any) -> Any:
    """A value without what the clock decides."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, list) else value


async def complete(world: World, definition: Any, **options: Any) -> dict[str, Any]:
    """The result of a graph that completes."""
    result: dict[str, Any] = timeless(await world.run("StageGraph", definition, **options))
    assert result["status"] == "completed"
    return result


async def fail(world: World, definition: Any, **options: Any) -> dict[str, Any]:
    """The result of a graph that does not complete: its run fails, with the status as its type."""
    return await result_in_failure(await world.start("StageGraph", definition, **options))


async def result_in_failure(handle: WorkflowHandle[Any, Any], kind: str | None = None) -> dict[str, Any]:
    """The result in a run's failure, whose type is its status unless it is another kind."""
    failure = await failure_of(handle)
    assert isinstance(failure, ApplicationError), repr(failure)
    result: dict[str, Any] = timeless(failure.details[0])
    assert failure.type == (kind or result["status"])
    return result


def visits(result: dict[str, Any]) -> list[str]:
    """The stages that ran, in order."""
    return [each["stage_id"] for each in result["stages"]]


def statuses(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Stage and status of each execution."""
    return [(each["stage_id"], each["status"]) for each in result["stages"]]


def undone(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Stage and status of each compensation, in the order in which they ran."""
    return [(each["for_stage_id"], each["status"]) for each in result["compensations"]]


def error_of(result: dict[str, Any], stage_id: str) -> str:
    """The error of a stage's last execution."""
    return str(next(each for each in reversed(result["stages"]) if each["stage_id"] == stage_id)["error"])


def output_of(result: dict[str, Any], stage_id: str) -> dict[str, Any]:
    """The output of a stage's last execution."""
    found: dict[str, Any] = next(each for each in reversed(result["stages"]) if each["stage_id"] == stage_id)["output"]
    return found


async def until_told(handle: WorkflowHandle[Any, Any], kind: str, count: int = 1) -> list[dict[str, Any]]:
    """The events of a type, once a run has told so many."""

    async def told() -> list[dict[str, Any]]:
        found = await events_of(handle, kind)
        return found if len(found) >= count else []

    return await wait_until(f"{count} events {kind!r}", told)


async def until_asked(handle: WorkflowHandle[Any, Any], count: int = 1) -> list[dict[str, Any]]:
    """The open approvals of a run, once there are so many."""

    async def asked() -> Sequence[dict[str, Any]]:
        found: list[dict[str, Any]] = await handle.query("approvals")
        return found if len(found) == count else []

    return list(await wait_until(f"{count} approvals are open", asked))
