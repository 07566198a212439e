"""Agents that are Python functions: `async def` on the worker's event loop, `def` in a thread.

Law: a thread cannot be killed. A `def` agent whose step ends early is asked to stop through its context, waited for
for a few seconds, and then left behind with a warning; its context then accepts nothing more.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import structlog

from activities.context import BlockingStepContext, StepContext
from activities.executors import Resources
from activities.registry import AgentFunction, FunctionAgent
from activities.stopping import leave
from workflows.errors import StepFailed
from workflows.steps import AgentStepSpec, StepCall

STOP_SECONDS = 5.0
# Long enough for one model call's answer or a clean-up, short enough that a cancelled run ends while people look on.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.function")


class FunctionExecutor:
    """Calls the function of an agent. What happens when it runs twice is the function's own: it gets the same
    `context.idempotency_key`, and `context.restored`."""

    def __init__(self, entry: FunctionAgent, resources: Resources) -> None:
        self._entry = entry
        self._resources = resources

    async def run(self, call: StepCall, context: StepContext) -> Any:
        """What the function returned."""
        function = self._entry.resolve()
        if function.is_async:
            with self._resources.deputy.watching(self._entry.name):
                return await _awaited(function, call.spec, context)
        return await self._run_in_thread(function, call.spec, context.blocking())

    async def _run_in_thread(self, function: AgentFunction, spec: AgentStepSpec, context: BlockingStepContext) -> Any:
        run = contextvars.copy_context().run  # so that loggers and `activity.info()` know the step there too
        started = self._resources.threads.submit(run, _called, function, spec, context)
        work = asyncio.wrap_future(started)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not started.cancel():  # still waiting for a thread: nothing to wait for
                await self._leave(work)
            raise

    async def _leave(self, work: asyncio.Future[Any]) -> None:
        """Wait for a function that was asked to stop, a few seconds at most."""
        done, _ = await asyncio.wait([work], timeout=STOP_SECONDS)
        leave(work)
        if done:
            return
        _log.warning(
            "A `def` agent did not stop, and its thread goes on. Call its context, or check `context.cancelled`, "
            "in every loop.",
            agent=self._entry.name,
            waited_seconds=STOP_SECONDS,
        )


async def _awaited(function: AgentFunction, spec: AgentStepSpec, context: StepContext) -> Any:
    try:
        return await function.callable(*_arguments(function, spec, context))
    except SystemExit as error:  # else it would end the worker
        raise _exit_as_failure(error) from error


def _called(function: AgentFunction, spec: AgentStepSpec, context: BlockingStepContext) -> Any:
    try:
        return function.callable(*_arguments(function, spec, context))
    except SystemExit as error:
        raise _exit_as_failure(error) from error
    except StopIteration as error:  # a future cannot carry it: nobody would ever be told
        raise StepFailed("StopIteration left the agent: it asked an iterator for more than it had") from error


def _arguments(function: AgentFunction, spec: AgentStepSpec, context: StepContext) -> tuple[Any, ...]:
    return (spec, context) if function.takes_context else (spec,)


def _exit_as_failure(error: SystemExit) -> StepFailed:
    return StepFailed(f"the agent called sys.exit({error.code!r}). Return what it found, or raise an error")
