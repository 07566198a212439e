"""`run_action`: calls the tool of one action and decides what its end means.

Law: an action's end is data. Only four things are raised: a failure of an action that asks to be retried, a worker
that must let go of the call (so that Temporal tries again elsewhere), a heartbeat that could not be recorded, and an
attempt that Temporal had given up before it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor as Threads
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.deputy import Deputy
from activities.heartbeat import Beat, Pulse
from activities.tools.calling import call_tool
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.registry import ParametersRejected, Tool, Toolbox
from activities.withdrawal import lost_to
from workflows import wire
from workflows.actions import CANCELLED_TEXT, ActionCall, ActionOutcome, ActionStatus
from workflows.graph.policies import ToolPolicy, violations

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.actions")


class ActionActivities:
    """The activity `run_action` over a toolbox, the worker's policies and threads for `def` tools."""

    def __init__(
        self,
        tools: Toolbox,
        policies: Sequence[ToolPolicy] = (),
        *,
        threads: Threads,
        workspace: Path | None = None,
        deputy: Deputy | None = None,
    ) -> None:
        self._tools = tools
        self._policies = tuple(policies)
        self._threads = threads
        self._workspace = workspace or Path.cwd()
        self._deputy = Deputy() if deputy is None else deputy

    @activity.defn(name=wire.RUN_ACTION)
    async def run_action(self, call: ActionCall) -> ActionOutcome:
        """Call a tool and return how that ended.

        It runs twice where a worker is lost before Temporal knows the outcome: the tool is called again with the same
        idempotency key and a higher `context.attempt`, and whatever it did before stays done.
        """
        pulse = Pulse(Beat, self._deputy)
        pulse.start()
        try:
            await pulse.confirm()
            return await self._run(call)
        finally:
            pulse.stop()

    async def _run(self, call: ActionCall) -> ActionOutcome:
        tool = self._tools.get(call.tool)
        if tool is None:
            return _outcome("rejected", f"tool '{call.tool}' is not registered")
        try:
            # In a thread: a large parameter takes longer than the event loop may be held.
            arguments = await asyncio.to_thread(tool.arguments, call.parameters)
        except ParametersRejected as error:
            return _outcome("rejected", str(error))
        denied = violations(self._policies, tool=call.tool, parameters=call.parameters, state={})
        if denied:
            return _outcome("rejected", "; ".join(denied))
        return await self._called(tool, call, arguments)

    async def _called(self, tool: Tool, call: ActionCall, arguments: dict[str, object]) -> ActionOutcome:
        limit = None if call.timeout_ms is None else call.timeout_ms / 1000
        try:
            output = await call_tool(tool, arguments, self._context(call), threads=self._threads, timeout_seconds=limit)
        except ToolFailed as failure:
            return _failed(call, str(failure))
        except asyncio.CancelledError:
            return _cancelled()
        return ActionOutcome(status="succeeded", output=output, attempts=activity.info().attempt)

    def _context(self, call: ActionCall) -> ToolContext:
        info = activity.info()
        return ToolContext(
            idempotency_key=call.key,
            workspace=self._workspace,
            attempt=info.attempt,
            log=_log.bind(workflow_id=info.workflow_id, action=call.action, tool=call.tool, attempt=info.attempt),
        )


def _failed(call: ActionCall, text: str) -> ActionOutcome:
    """A tool's failure: the result, unless the action asks for another attempt and has one left."""
    if activity.info().attempt < call.attempts:
        raise ApplicationError(text, type=ToolFailed.__name__)
    return _outcome("failed", text)


def _cancelled() -> ActionOutcome:
    """The end of a call that Temporal cancelled: an outcome if the run asked for it, else another attempt elsewhere."""
    if (lost := lost_to()) is not None:
        kind, text = lost
        raise ApplicationError(text, type=kind, category=ApplicationErrorCategory.BENIGN)
    return _outcome("failed", CANCELLED_TEXT)


def _outcome(status: ActionStatus, error: str) -> ActionOutcome:
    return ActionOutcome(status=status, error=error, attempts=activity.info().attempt)
