"""The spans of runs, steps and actions, by the semantic conventions of OpenTelemetry for generative AI.

    invoke_workflow <type>     a run, from its start to its end
    invoke_agent <agent>       one attempt of a step; model calls and tools are in it
    execute_tool <tool>        one attempt of an action

Temporal's own interceptor carries the trace from one to the next. Law: a run has one span however often it is replayed,
and what people and models say is in none unless the operator asks for it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from opentelemetry.trace import Span, StatusCode, get_tracer
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)
from temporalio.workflow import ContinueAsNewError

from workflows.actions import ActionCall, ActionOutcome
from workflows.steps import StepCall, StepOutcome

SCOPE = "perdure"
"""The instrumentation scope of perdure's own spans."""

Attributes = dict[str, str | int | float | bool]


class SpansInterceptor(Interceptor):
    """Makes the spans of a worker. Behind the interceptor that carries the trace."""

    def __init__(self, *, shows_content: bool = False) -> None:
        self._shows_content = shows_content

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See base class."""
        return _Steps(next, self._shows_content)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """See base class."""
        return _Runs


class _Runs(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        info = workflow.info()
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": info.workflow_type,
            "perdure.workflow_id": info.workflow_id,
            "perdure.run_id": info.run_id,
        }
        # Ended by hand: a workflow task that fails ends nothing, for the run goes on when it is tried again. And an
        # exception is not written down: it may quote what the run was given.
        with get_tracer(SCOPE).start_as_current_span(
            f"invoke_workflow {info.workflow_type}",
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
            end_on_exit=False,
        ) as span:
            try:
                result = await super().execute_workflow(input)
            except ContinueAsNewError:
                _end_run(span, "continued_as_new")
                raise
            except asyncio.CancelledError:
                _end_run(span, "cancelled")
                raise
            except Exception as error:
                if workflow.is_failure_exception(error):
                    _end_run(span, "failed", _kind(error))
                raise
            _end_run(span, "completed")
            return result


def _kind(error: Exception) -> str:
    return (error.type if isinstance(error, ApplicationError) else None) or type(error).__name__


def _end_run(span: Span, status: str, error: str | None = None) -> None:
    """End the span; a replay and an eviction do not, for the provider passes over it then."""
    span.set_attribute("perdure.status", status)
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end()


class _Steps(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, shows_content: bool) -> None:
        super().__init__(next)
        self._shows_content = shows_content

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        call = input.args[0] if input.args else None
        match call:
            case StepCall():
                name, attributes = f"invoke_agent {call.spec.agent}", _of_step(call)
            case ActionCall():
                name, attributes = f"execute_tool {call.tool}", _of_action(call)
            case _:
                return await super().execute_activity(input)
        info = activity.info()
        attributes |= {
            "perdure.workflow_id": info.workflow_id or "",
            "perdure.run_id": info.workflow_run_id or "",
            "perdure.attempt": info.attempt,
        }
        with get_tracer(SCOPE).start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                result = await super().execute_activity(input)
            except ApplicationError as error:  # this attempt; another one follows
                self._fail(span, _kind(error), error.message)
                raise
            self._end(span, result)
            return result

    def _end(self, span: Span, result: Any) -> None:
        match result:
            case StepOutcome():
                span.set_attributes(_spent(result))
                if not result.success and result.status != "suspended":
                    self._fail(span, result.status, result.error)
            case ActionOutcome():
                span.set_attribute("perdure.status", result.status)
                if result.status != "succeeded":
                    self._fail(span, result.status, result.error)

    def _fail(self, span: Span, kind: str, told: str | None) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(StatusCode.ERROR, told if self._shows_content else None)


def _of_step(call: StepCall) -> Attributes:
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": call.spec.agent,
        "gen_ai.conversation.id": call.key,
        "perdure.step": call.spec.task_id,
    }


def _of_action(call: ActionCall) -> Attributes:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.tool,
        "gen_ai.tool.type": "function",
        "perdure.action": call.action,
    }


def _spent(outcome: StepOutcome) -> Attributes:
    """What a step has spent so far, over all its attempts.

    Not under the names that the spans of its model calls have: who adds those up must not count it twice.
    """
    usage = outcome.usage
    told: Attributes = {
        "perdure.status": outcome.status,
        "gen_ai.aggregated_usage.input_tokens": usage.input_tokens,
        "gen_ai.aggregated_usage.output_tokens": usage.output_tokens,
        "perdure.requests": usage.requests,
        "perdure.tool_calls": usage.tool_calls,
    }
    return told if usage.cost_usd is None else {**told, "perdure.cost_usd": usage.cost_usd}
