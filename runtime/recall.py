"""What a run would answer to its queries, found by replaying its history here: no worker, no side effects.

A replay executes no activity and talks to no server. Before the replay lets go of the run, each question is put to it
as the query that a server would send, so the answer is a live worker's, for runs that were terminated too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from temporalio import workflow
from temporalio.bridge.proto.workflow_activation import QueryWorkflow, WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import PayloadConverter, SerializationContext
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    Replayer,
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
)

from runtime.plugin import PerdurePlugin, workflow_name
from runtime.settings import Settings
from runtime.texts import full_stop
from workflows.errors import cut
from workflows.wire import EVENTS_QUERY

Questions = Mapping[str, Sequence[Any]]
"""Arguments by query name."""


class RecallFailed(Exception):
    """The history does not replay with the code that is here; the message says why, and what helps."""


class _AskingRunner(WorkflowRunner):
    """Runs workflows as another runner does, and asks each before it goes."""

    def __init__(self, runner: WorkflowRunner, questions: Questions, converter: PayloadConverter) -> None:
        self.runner = runner
        self.converter = converter
        self.questions = questions
        self.answers: dict[str, Any] = {}

    def prepare_workflow(self, defn: workflow._Definition) -> None:
        """See base class."""
        self.runner.prepare_workflow(defn)

    def set_worker_level_failure_exception_types(self, types: Sequence[type[BaseException]]) -> None:
        """See base class."""
        self.runner.set_worker_level_failure_exception_types(types)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        return _AskedInstance(self, self.runner.create_instance(det))


class _AskedInstance(WorkflowInstance):
    """A run that is asked before it is evicted.

    Asked later, it would tell what its own cleaning up did on the way out, which never happened.
    """

    def __init__(self, asking: _AskingRunner, run: WorkflowInstance) -> None:
        self.asking = asking
        self.run = run
        self.converter = asking.converter
        self.last: WorkflowActivation | None = None

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """See base class."""
        if any(job.HasField("remove_from_cache") for job in act.jobs):
            if self.last is not None:
                self._ask(self.last)
        else:
            self.last = act
        return self.run.activate(act)

    def get_serialization_context(self, command_info: Any) -> SerializationContext | None:
        """See base class."""
        return self.run.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        """See base class."""
        return self.run.get_external_store_context(command_info)

    def get_info(self) -> workflow.Info:
        """See base class."""
        return self.run.get_info()

    def get_thread_id(self) -> int | None:
        """See base class."""
        return self.run.get_thread_id()

    def _ask(self, last: WorkflowActivation) -> None:
        """Put the questions, at the time of the last activation. What fails to answer is left out."""
        for name, arguments in self.asking.questions.items():
            for answer in self._answers(last, name, arguments):
                self.asking.answers[name] = self._whole(last, answer) if name == EVENTS_QUERY else answer

    def _whole(self, last: WorkflowActivation, page: Any) -> Any:
        """All pages as one: another replay for each would take as long as the first."""
        while isinstance(page, dict) and page.get("more"):
            for following in self._answers(last, EVENTS_QUERY, [page["last_offset"]]):
                events = [*page["events"], *following["events"]]
                page = {**following, "events": events, "dropped": page.get("dropped", 0)}
        return page

    def _answers(self, last: WorkflowActivation, name: str, arguments: Sequence[Any]) -> list[Any]:
        """The answer, or nothing."""
        asked = WorkflowActivation(
            run_id=last.run_id,
            timestamp=last.timestamp,
            is_replaying=True,
            history_length=last.history_length,
            jobs=[WorkflowActivationJob(query_workflow=self._query(name, arguments))],
        )
        responses = [command.respond_to_query for command in self.run.activate(asked).successful.commands]
        return [
            self.converter.from_payload(response.succeeded.response)
            for response in responses
            if response.HasField("succeeded")
        ]

    def _query(self, name: str, arguments: Sequence[Any]) -> QueryWorkflow:
        return QueryWorkflow(query_id=name, query_type=name, arguments=self.converter.to_payloads(arguments))


async def recall(
    history: WorkflowHistory, questions: Questions, *, settings: Settings, workflows: Sequence[type]
) -> dict[str, Any]:
    """The answers by query name, all pages of `events` as one; a query that the run does not have is absent.

    Raises `RecallFailed` where the code that is here cannot replay the history.
    """
    runners: list[_AskingRunner] = []

    def asking(existing: WorkflowRunner | None) -> WorkflowRunner:
        converter = pydantic_data_converter.payload_converter  # a codec works outside the run
        runners.append(_AskingRunner(existing or UnsandboxedWorkflowRunner(), questions, converter))
        return runners[-1]

    replayer = Replayer(
        workflows=list(workflows),
        build_id="recall",  # else the SDK reads every loaded module, to make one that nothing here looks at
        # In this order: the second one wraps the sandbox that the first one sets up.
        plugins=[PerdurePlugin(settings, activities=False), SimplePlugin("perdure.recall", workflow_runner=asking)],
    )
    started = history.events[0].workflow_execution_started_event_attributes.workflow_type.name
    known = {workflow_name(served) for served in replayer.config(active_config=True)["workflows"]}
    if started not in known and None not in known:  # None: a dynamic workflow, which takes any type
        raise RecallFailed(
            f"the workflow type {started!r} is not known. Name its module with --workflows, or start a worker."
        )
    result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    if result.replay_failure is not None:
        why = full_stop(cut(str(result.replay_failure)))
        raise RecallFailed(f"{why} Start a worker that has the code of that run.")
    return {name: answer for runner in runners for name, answer in runner.answers.items()}
