"""`run_action`: what each end of a tool means for its action."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import heartbeat
from activities.actions import ActionActivities
from activities.tools import Tool, Toolbox, ToolContext, ToolFailed, calling, tool
from workflows.actions import ActionCall, ActionOutcome
from workflows.errors import InputRejected
from workflows.graph.policies import DenyTool, DenyToolParam, ToolPolicy

Body = Callable[[ToolContext], Any]
BODY: list[Body] = []
"""What the tool of the running test does."""


def work(context: ToolContext, amount: int = 1) -> Any:
    return BODY[-1](context)


async def work_async(context: ToolContext) -> Any:
    return await BODY[-1](context)


class Actions:
    """Runs one action after another, on an activity environment each."""

    def __init__(self, workspace: Path) -> None:
        self.environment = ActivityEnvironment()
        self.beats: list[Any] = []
        self.workspace = workspace

    async def run(
        self,
        body: Body | None = None,
        *,
        name: str = "work",
        parameters: dict[str, Any] | None = None,
        policies: tuple[ToolPolicy, ...] = (),
        attempt: int = 1,
        **call: Any,
    ) -> ActionOutcome:
        if body is not None:
            BODY.append(body)
        self.environment = ActivityEnvironment()
        self.environment.info = replace(self.environment.info, attempt=attempt)
        self.environment.on_heartbeat = self.beats.append
        tools = Toolbox.builtin().with_tool(Tool.of(work)).with_tool(Tool.of(work_async))
        threads = ThreadPoolExecutor(2)
        try:
            activities = ActionActivities(tools, policies, threads=threads, workspace=self.workspace)
            full = ActionCall(action="a", tool=name, parameters=parameters or {}, key="k", **call)
            return await self.environment.run(activities.run_action, full)
        finally:
            threads.shutdown(wait=False)


@pytest.fixture
def actions(tmp_path: Path) -> Actions:
    return Actions(tmp_path)


def returning(value: Any) -> Body:
    return lambda _: value


def raising(error: BaseException) -> Body:
    def body(context: ToolContext) -> Any:
        raise error

    return body


class Report(BaseModel):
    pages: int


@dataclass
class Point:
    x: int
    at: Path


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        ("text", "text"),
        (None, None),
        ({"a": [1, 2.5, True, "é"]}, {"a": [1, 2.5, True, "é"]}),
        (Report(pages=3), {"pages": 3}),
        (Point(1, Path("a")), {"x": 1, "at": "a"}),
    ],
    ids=["text", "nothing", "json", "model", "dataclass"],
)
async def test_action_takes_what_its_tool_returned(actions: Actions, returned: Any, output: Any) -> None:
    """Plain JSON as it is; models and dataclasses as their JSON."""
    assert await actions.run(returning(returned)) == ActionOutcome(status="succeeded", output=output)
    assert actions.beats == []


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def _circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ({1}, "tool 'work' returned a value of type 'set', which is no JSON: input was not a valid JSON value"),
        ({"a": object()}, "tool 'work' returned what is no JSON: at 'a': input was not a valid JSON value"),
        ([float("nan")], None),
        ("\ud800", None),
        (_nested(101), "tool 'work' returned JSON of more than 100 levels. Return a flatter result."),
        (_nested(100_000), "tool 'work' returned JSON of more than 100 levels. Return a flatter result."),
        (
            "x" * 50_000_000,
            "tool 'work' returned 50.0 MB and the limit is 1.9 MB. "
            "Return less, or write it to a file and return its path.",
        ),
        (Report.model_construct(pages=object()), None),  # type: ignore[arg-type]
        (_circle(), None),
    ],
    ids=["set", "object", "nan", "half a character", "deep", "very deep", "50 MB", "broken model", "circle"],
)  # fmt: skip
async def test_action_fails_whose_tool_returned_what_no_history_holds(
    actions: Actions, returned: Any, told: str | None
) -> None:
    """Bad types, depths and sizes are failed results that say what is wrong."""
    outcome = await actions.run(returning(returned))
    if told is None:
        assert outcome.error is not None
        assert outcome.error.startswith("tool 'work' returned what is no JSON: ")
    else:
        assert outcome == ActionOutcome(status="failed", error=told)


async def test_action_keeps_the_deepest_result_that_is_allowed(actions: Actions) -> None:
    """At the limit nothing is refused."""
    deepest = _nested(100)
    assert await actions.run(returning(deepest)) == ActionOutcome(status="succeeded", output=deepest)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ToolFailed("the printer is out of paper"), "the printer is out of paper"),
        (InputRejected("not this one"), "not this one"),
        (KeyError("id"), "KeyError: 'id'"),
        (RuntimeError(), "RuntimeError"),
        (StopIteration(), "StopIteration"),
        (SystemExit(3), "tool 'work' called sys.exit(3). Return a result, or raise an error"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("x" * 3_000), f"ValueError: {'x' * 1_988}… (3,012 characters)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_action_fails_whose_tool_crashed(actions: Actions, error: BaseException, told: str) -> None:
    """Whatever a tool raises is its failure's text, and never the worker's end."""
    assert await actions.run(raising(error)) == ActionOutcome(status="failed", error=told)


async def test_async_action_fails_whose_tool_crashed(actions: Actions) -> None:
    """The same on the event loop, where a tool can also cancel itself."""

    async def leaves(context: ToolContext) -> None:
        sys.exit(1)

    async def cancels(context: ToolContext) -> None:
        raise asyncio.CancelledError

    async def ends(context: ToolContext) -> None:
        raise BaseException("the end")  # noqa: TRY002 - what no `except Exception` catches

    left = await actions.run(leaves, name="work_async")
    assert left.error == "tool 'work_async' called sys.exit(1). Return a result, or raise an error"
    cancelled = await actions.run(cancels, name="work_async")
    assert cancelled.error == "tool 'work_async' cancelled itself: asyncio.CancelledError left it"
    assert (await actions.run(ends, name="work_async")).error == "BaseException: the end"


async def test_crash_of_a_tool_leaves_its_traceback_in_the_log(actions: Actions) -> None:
    """The history gets the text, the worker's log what an author needs."""
    with capture_logs() as logs:
        await actions.run(raising(KeyError("id")))
    [entry] = logs
    assert (entry["event"], entry["action"], entry["tool"], entry["attempt"]) == ("A tool failed.", "a", "work", 1)
    assert entry["traceback"].endswith("KeyError: 'id'\n")


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("fax", {}, "tool 'fax' is not registered"),
        ("read_file", {}, "missing required parameter 'path' for tool 'read_file'"),
        ("read_file", {"path": 3}, "parameter 'path' for tool 'read_file': 3 is not of type 'string'"),
        ("calculate", {"expression": "9 * 9"}, "tool 'calculate' denied; param 'expression' matches '9 *'"),
    ],
    ids=["unknown", "missing", "mistyped", "denied"],
)
async def test_action_that_may_not_run_is_rejected(
    actions: Actions, name: str, parameters: dict[str, Any], told: str
) -> None:
    """Known, complete, of the right types, allowed: what fails is told, and no attempt is made again."""
    policies = (DenyTool(target="calculate"), DenyToolParam(target="calculate", key="expression", pattern="9 *"))
    outcome = await actions.run(name=name, parameters=parameters, policies=policies, attempts=4)
    assert outcome == ActionOutcome(status="rejected", error=told)


async def test_action_calls_built_in_tools_in_the_workspace(actions: Actions, tmp_path: Path) -> None:
    """The worker's workspace is theirs, and nothing else."""
    written = await actions.run(name="write_file", parameters={"path": "a.txt", "content": "text"})
    assert written == ActionOutcome(status="succeeded", output={"path": "a.txt", "bytes": 4})
    assert (tmp_path / "a.txt").read_text() == "text"
    escaped = await actions.run(name="read_file", parameters={"path": "../../etc/passwd"})
    assert escaped == ActionOutcome(
        status="failed",
        error="path '../../etc/passwd' leads out of the workspace. Give a path inside it, relative to the workspace.",
    )


async def test_action_gives_its_tool_a_context(actions: Actions, tmp_path: Path) -> None:
    """The idempotency key, the attempt and the workspace."""
    outcome = await actions.run(
        lambda context: [context.idempotency_key, context.attempt, str(context.workspace)], attempt=3
    )
    assert outcome == ActionOutcome(status="succeeded", output=["k", 3, str(tmp_path)], attempts=3)


async def test_action_that_retries_raises_until_its_last_attempt(actions: Actions) -> None:
    """Temporal makes the attempts; the last failure is data."""
    with pytest.raises(ApplicationError) as failed:
        await actions.run(raising(ToolFailed("busy")), attempts=3, attempt=2)
    assert (failed.value.message, failed.value.type, failed.value.non_retryable) == ("busy", "ToolFailed", False)
    last = await actions.run(raising(ToolFailed("busy")), attempts=3, attempt=3)
    assert last == ActionOutcome(status="failed", error="busy", attempts=3)


async def test_hung_tool_ends_at_its_limit(actions: Actions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be killed: it is told, waited for, and left behind with a warning; the action ends."""
    monkeypatch.setattr(calling, "STOP_SECONDS", 0.2)
    release = threading.Event()
    with capture_logs() as logs:
        outcome = await actions.run(lambda _: release.wait(), timeout_ms=100)
    release.set()
    assert outcome == ActionOutcome(status="failed", error="tool 'work' timed out after 100ms")
    assert [entry["event"] for entry in logs] == [
        "A tool did not stop, and was left behind. Check `context.cancelled` in every loop of a `def` tool."
    ]


async def test_tool_that_looks_is_stopped_at_its_limit(actions: Actions) -> None:
    """A tool that checks its context leaves no thread behind, and no warning."""
    stopped = threading.Event()

    def loops(context: ToolContext) -> None:
        while not context.cancelled:
            stopped.wait(0.01)
        stopped.set()

    with capture_logs() as logs:
        outcome = await actions.run(loops, timeout_ms=100)
    assert outcome == ActionOutcome(status="failed", error="tool 'work' timed out after 100ms")
    assert stopped.is_set()
    assert logs == []


async def test_hung_async_tool_is_cancelled_at_its_own_limit(actions: Actions, tmp_path: Path) -> None:
    """Where the action sets no limit, the tool's own holds."""

    @tool(timeout_seconds=0.1)
    async def sleepy() -> None:
        await asyncio.Event().wait()

    environment = ActivityEnvironment()
    with ThreadPoolExecutor(1) as threads:
        activities = ActionActivities(Toolbox([Tool.of(sleepy)]), threads=threads, workspace=tmp_path)
        outcome = await environment.run(activities.run_action, ActionCall(action="a", tool="sleepy", key="k"))
    assert outcome == ActionOutcome(status="failed", error="tool 'sleepy' timed out after 100ms")


async def test_long_tool_beats(actions: Actions, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a lost worker is noticed, and a cancel arrives."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    beaten = threading.Event()
    actions.beats = _Signalling(beaten)
    assert (await actions.run(lambda _: beaten.wait(10))).output is True


class _Signalling(list[Any]):
    def __init__(self, signal: threading.Event) -> None:
        super().__init__()
        self._signal = signal

    def append(self, item: Any) -> None:
        super().append(item)
        self._signal.set()


async def _cancelled(actions: Actions, details: ActivityCancellationDetails) -> ActionOutcome:
    begun = asyncio.Event()

    async def waits(context: ToolContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(actions.run(waits, name="work_async"))
    await begun.wait()
    actions.environment.cancel(details)
    return await running


async def test_cancelled_action_is_a_failed_result(actions: Actions) -> None:
    """The run asked for its end and gets one."""
    outcome = await _cancelled(actions, ActivityCancellationDetails(cancel_requested=True))
    assert outcome == ActionOutcome(status="failed", error="Action cancelled by caller")


async def test_action_of_a_worker_that_leaves_is_tried_elsewhere(actions: Actions) -> None:
    """A drained worker lets go, and Temporal tries again."""
    with pytest.raises(ApplicationError) as failed:
        await _cancelled(actions, ActivityCancellationDetails(worker_shutdown=True))
    assert (failed.value.message, failed.value.type) == ("worker is shutting down", "WorkerShutdown")
