"""Whether today's code still runs yesterday's histories: the verdict of `perdure replay` and of the replay tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from runtime.plugin import PerdurePlugin, workflow_name
from runtime.settings import Settings


@dataclass(frozen=True)
class ReplayVerdict:
    """How one history replayed; `failure` is None where it did."""

    workflow_id: str
    workflow_type: str
    failure: str | None = None


async def replay_histories(
    histories: Iterable[WorkflowHistory], workflows: Sequence[type], settings: Settings | None = None
) -> list[ReplayVerdict]:
    """A verdict for each history, in their order, by perdure's workflows and the given ones. Needs no server.

    `settings` (default: the environment's) bring the codec's key where histories are encrypted.
    """
    replayer = Replayer(
        workflows=list(workflows),
        build_id="replay",  # else the SDK reads every loaded module, 0.3 s, to make one that nothing here looks at
        plugins=[PerdurePlugin(settings)],
    )
    served = {workflow_name(served) for served in replayer.config(active_config=True)["workflows"]}
    return [await _verdict(replayer, history, served) for history in histories]


async def _verdict(replayer: Replayer, history: WorkflowHistory, served: set[str | None]) -> ReplayVerdict:
    started = _type_of(history)
    if started is None:
        failure: str | None = "The history does not begin with the start of a run."
    elif started not in served and None not in served:  # None: a dynamic workflow, which takes any type
        known = ", ".join(repr(name) for name in sorted(filter(None, served)))
        failure = f"No workflow of the type {started!r} is known here. The types are {known}. Name its module."
    else:
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        failure = None if result.replay_failure is None else _sentence(result.replay_failure)
    return ReplayVerdict(history.workflow_id, started or "", failure)


def _type_of(history: WorkflowHistory) -> str | None:
    if not history.events or not history.events[0].HasField("workflow_execution_started_event_attributes"):
        return None
    return history.events[0].workflow_execution_started_event_attributes.workflow_type.name


def _sentence(failure: Exception) -> str:
    text = str(failure)
    name = type(failure).__name__
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"
