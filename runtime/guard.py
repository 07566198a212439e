"""What leaves a run is small enough, and nothing of it is left running: the same for every workflow, ours and users'.

A result, a failure or carried arguments over the server's limit would keep the last workflow task failing for ever.
"""

from __future__ import annotations

import asyncio
from inspect import signature
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from workflows import AgentWorkflow, wire
from workflows.errors import QUOTED_LENGTH, InputRejected, PayloadTooLarge, cut
from workflows.oversize import trimmed


class GuardInterceptor(Interceptor):
    """Puts the guard around every workflow of a worker or a Replayer."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """See base class."""
        return _Guard


class _Guard(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        _refuse_other_arguments(input)
        try:
            return _fitting(await super().execute_workflow(input))
        except asyncio.CancelledError:
            await _end_what_is_left()
            raise
        except ApplicationError as error:
            if wire.fits(list(error.details)) and wire.fits(error.message):
                raise
            raise _without_details(error) from error.__cause__


class _Outbound(WorkflowOutboundInterceptor):
    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        for number, argument in enumerate(input.args):
            wire.fit(argument, owner=_run(), field=f"argument {number} of continue-as-new")
        super().continue_as_new(input)


def _refuse_other_arguments(input: ExecuteWorkflowInput) -> None:
    """More or fewer arguments than `run` takes would raise a TypeError, with which a workflow task retries for ever."""
    try:
        signature(input.run_fn).bind(None, *input.args)  # None: self
    except TypeError as error:
        raise InputRejected(f"{workflow.info().workflow_type}: {error} (it was given {len(input.args)}).") from None


def _run() -> str:
    return f"run {workflow.info().workflow_id!r}"


def _fitting(result: Any) -> Any:
    """The result, with large outputs of steps replaced where it would not fit. Raises `PayloadTooLarge`."""
    if wire.fits(result):
        return result
    lighter = trimmed(result)
    wire.fit(lighter, owner=_run(), field="result")
    workflow.logger.warning("The result of %s was too large; large outputs were replaced by size and hash.", _run())
    return lighter


async def _end_what_is_left() -> None:
    """Steps in tasks that the workflow made by itself know nothing of the cancel."""
    served = workflow.instance()
    if isinstance(served, AgentWorkflow):
        await served.perdure.end_all()


def _without_details(error: ApplicationError) -> ApplicationError:
    left_out = PayloadTooLarge(
        owner=_run(), field="details of its failure", size=wire.size(list(error.details)), limit=wire.largest_payload()
    )
    message = f"{cut(error.message, 10 * QUOTED_LENGTH)} (left out: {left_out.message})"
    return ApplicationError(message, type=error.type, non_retryable=error.non_retryable)
