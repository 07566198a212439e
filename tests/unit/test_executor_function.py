"""Function agents: `def` in a thread, `async def` on the loop, and how each is stopped."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from activities.agents import AgentActivities
from activities.blobs import Checkpoints, FolderStore
from activities.context import BlockingStepContext, StepContext
from activities.executors import function
from activities.registry import FunctionAgent, Registry
from workflows.errors import StepCancelled
from workflows.steps import AgentStepSpec, StepCall, StepOutcome, Usage

RUNNING = threading.Event()
RELEASED = threading.Event()
SEEN: list[object] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RUNNING.clear()
    RELEASED.clear()
    SEEN.clear()


async def _run(
    name: str, *, store: FolderStore | None = None, environment: ActivityEnvironment | None = None
) -> StepOutcome:
    registry = Registry([FunctionAgent(name="f", function=f"{__name__}:{name}")])
    call = StepCall(spec=AgentStepSpec(task_id="t", agent="f", prompt="p"), key="k")
    with ThreadPoolExecutor(1) as threads:
        activities = AgentActivities(registry, store, threads=threads)
        return await (environment or ActivityEnvironment()).run(activities.run_agent_step, call)


def in_thread(step: AgentStepSpec, context: BlockingStepContext) -> str:
    context.record_after_llm(Usage(input_tokens=3))
    context.checkpoint({"at": 1})
    context.progress("half way")
    return f"{step.prompt} {threading.current_thread() is threading.main_thread()} {activity.info().activity_id}"


async def on_loop(step: AgentStepSpec) -> dict[str, Any]:
    return {"prompt": step.prompt, "main": threading.current_thread() is threading.main_thread()}


async def test_function_runs_where_its_kind_runs(tmp_path: Path) -> None:
    """A `def` agent runs in a thread that knows its activity, an `async def` one on the loop."""
    store = FolderStore(tmp_path)
    assert (await _run("in_thread", store=store)).output == "p False test"
    left = await Checkpoints(store, "k").latest()
    assert left is not None
    assert (left.value, left.usage) == ({"at": 1}, Usage(input_tokens=3))
    assert (await _run("on_loop")).structured == {"prompt": "p", "main": True}


def waits_for_cancel(step: AgentStepSpec, context: BlockingStepContext) -> str:
    RUNNING.set()
    while not context.cancelled:
        time.sleep(0.01)
    try:
        context.record_after_llm(Usage(input_tokens=9))
    except StepCancelled as error:
        SEEN.append(str(error))
        raise
    return "never"


async def _cancelled_while_running(name: str, **options: Any) -> StepOutcome:
    environment = ActivityEnvironment()
    step = asyncio.create_task(_run(name, environment=environment, **options))
    assert await asyncio.to_thread(RUNNING.wait, 10)
    environment.cancel()
    return await step


async def test_function_in_a_thread_is_stopped_by_its_context() -> None:
    """After a cancel the next context call raises StepCancelled, and what it was told still counts."""
    outcome = await _cancelled_while_running("waits_for_cancel")
    assert (outcome.status, outcome.output, outcome.usage) == (
        "cancelled",
        "Task cancelled by caller",
        Usage(input_tokens=9),
    )
    assert SEEN == ["The step was cancelled."]


def deaf(step: AgentStepSpec, context: BlockingStepContext) -> None:
    RUNNING.set()
    RELEASED.wait(30)
    for late in ("record", "checkpoint"):
        with pytest.raises(StepCancelled) as refused:
            context.record_after_llm(Usage(input_tokens=5)) if late == "record" else context.checkpoint("late")
        SEEN.append(str(refused.value))


async def test_function_that_does_not_stop_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be killed: the step ends without it, the log names it, and its late words are refused."""
    monkeypatch.setattr(function, "STOP_SECONDS", 0.1)
    store = FolderStore(tmp_path)
    registry = Registry([FunctionAgent(name="f", function=f"{__name__}:deaf")])
    environment = ActivityEnvironment()
    with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
        activities = AgentActivities(registry, store, threads=threads)
        call = StepCall(spec=AgentStepSpec(task_id="t", agent="f", prompt="p"), key="k")
        step = asyncio.create_task(environment.run(activities.run_agent_step, call))
        assert await asyncio.to_thread(RUNNING.wait, 10)
        environment.cancel()
        assert (await step).status == "cancelled"
        assert [(entry["agent"], entry["waited_seconds"]) for entry in logs] == [("f", 0.1)]
        RELEASED.set()
    assert SEEN == ["The step was cancelled.", "The step was cancelled."]
    assert await store.list("steps") == []
    assert logs[-1]["event"] == "A model call ended after its step and is not counted."


async def cleans_up(step: AgentStepSpec, context: StepContext) -> str:
    RUNNING.set()
    try:
        await asyncio.Event().wait()
    finally:
        context.record_after_llm(Usage(input_tokens=2))
    return "never"


async def test_function_on_the_loop_is_cancelled_and_cleans_up() -> None:
    """An `async def` agent gets CancelledError where it waits, and what it records then counts."""
    outcome = await _cancelled_while_running("cleans_up")
    assert (outcome.status, outcome.usage) == ("cancelled", Usage(input_tokens=2))


def exits(step: AgentStepSpec) -> str:
    sys.exit(3)


async def exits_on_loop(step: AgentStepSpec) -> str:
    sys.exit("bye")


def stops_iterating(step: AgentStepSpec) -> str:
    return str(next(iter([])))


async def cancels_itself(step: AgentStepSpec) -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exits", "the agent called sys.exit(3). Return what it found, or raise an error"),
        ("exits_on_loop", "the agent called sys.exit('bye'). Return what it found, or raise an error"),
        ("stops_iterating", "StopIteration left the agent: it asked an iterator for more than it had"),
        ("cancels_itself", "the agent cancelled itself: asyncio.CancelledError left it"),
    ],
)
async def test_function_that_leaves_strangely_fails_its_step(name: str, told: str) -> None:
    """Nothing that a function raises ends the worker or leaves the step without an end."""
    outcome = await _run(name)
    assert (outcome.status, outcome.output) == ("failed", f"Task failed: {told}")


async def blocks(step: AgentStepSpec) -> str:
    time.sleep(1.6)  # noqa: ASYNC251  # what the warning is about
    return "done"


async def test_function_that_holds_the_loop_is_named() -> None:
    """An `async def` agent that blocks is named in the log, for its neighbours miss their heartbeats."""
    with capture_logs() as logs:
        assert (await _run("blocks")).output == "done"
        give_up = time.monotonic() + 5
        while not logs:  # the warning comes from a task of its own
            assert time.monotonic() < give_up, "no warning came"
            await asyncio.sleep(0.02)
    warning = logs[-1]  # the watches of the tests before may still look, and see it too
    assert (warning["event"], warning["async_agents"]) == (
        "The event loop stood still. Write agents that compute or block as `def`: they run in threads.",
        ["f"],
    )
    assert warning["seconds"] > 1
