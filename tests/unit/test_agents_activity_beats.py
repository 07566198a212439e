"""What a step leaves in its heartbeats, and what it does when it is cancelled, let go or too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import heartbeat
from activities.blobs import Checkpoints
from activities.context import StepContext
from activities.heartbeat import DETAILS_BYTES, Beat
from tests.agent_steps import Steps, failed, returning
from workflows.steps import AgentStepSpec, Resume, StepOutcome, Usage
from workflows.wire import size


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "blobs")


async def test_step_without_a_store_keeps_small_checkpoints_in_its_heartbeat(steps: Steps) -> None:
    """A small value travels in the details, sent before the checkpoint returns; a large one is told once."""

    async def agent(step: AgentStepSpec, context: StepContext) -> str:
        context.progress("é" * 1_000 + "\x00")
        await context.checkpoint("x" * 3_000)
        assert len(steps.beats) == 1
        for _ in range(2):
            await context.checkpoint("x" * 5_000)
        return "done"

    outcome = await steps.run(agent, with_store=False)
    assert outcome.warnings == (
        "A checkpoint of more than 3,072 bytes was not kept, so another attempt starts from an earlier one, or anew. "
        "Set PERDURE_BLOBS to a folder or a bucket that all workers share.",
    )
    [beat] = steps.beats
    progress = "é" * 120 + "… (1,000 characters)"
    assert beat == {"task": "t", "progress": progress, "usage": {}, "checkpoint": "x" * 3_000}
    assert size(beat) < DETAILS_BYTES

    async def next_attempt(step: AgentStepSpec, context: StepContext) -> str:
        return str(context.restored == "x" * 3_000)

    again = await steps.run(next_attempt, with_store=False, attempt=2, heartbeat_details=[beat])
    assert again.output == "True"


async def test_step_whose_checkpoint_is_elsewhere_says_so(steps: Steps) -> None:
    """A worker with another store starts again, and tells the run why."""
    resume = Resume(transcript="steps/k/000001-0", usage=Usage(input_tokens=1))
    outcome = await steps.run(returning("x"), call={"resume": resume})
    assert outcome.warnings == (
        "The checkpoint 'steps/k/000001-0' is not in this worker's blob store, so the step began again. "
        "Set PERDURE_BLOBS to the same folder or bucket on every worker.",
    )


async def test_step_beats_with_its_newest_details(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Background beats carry usage, progress and the reference, each time, for an empty one would erase them."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)

    async def agent(step: AgentStepSpec, context: StepContext) -> str:
        context.record_after_llm(Usage(input_tokens=1))
        await context.checkpoint("c")
        context.progress("reading")
        until = len(steps.beats) + 2
        give_up = time.monotonic() + 5
        while len(steps.beats) < until:
            assert time.monotonic() < give_up, f"no beat came after {steps.beats}"
            await asyncio.sleep(0.01)
        return "done"

    await steps.run(agent)
    left = await Checkpoints(steps.store, "k").latest()
    assert left is not None
    assert steps.beats[-1] == {
        "task": "t",
        "usage": {"input_tokens": 1, "total_tokens": 1},
        "progress": "reading",
        "reference": left.reference,
    }
    beaten = len(steps.beats)
    await asyncio.sleep(0.15)  # three beats' time, and timers go off in their order: none may come after the end
    assert len(steps.beats) == beaten
    assert Beat.model_validate(steps.beats[-1]).usage == Usage(input_tokens=1)


async def _while_waiting(steps: Steps, act: Callable[[ActivityEnvironment], None]) -> StepOutcome:
    """A step whose agent has spent something and waits when `act` comes."""
    waiting = asyncio.Event()

    async def agent(step: AgentStepSpec, context: StepContext) -> str:
        context.record_after_llm(Usage(input_tokens=10))
        waiting.set()
        await asyncio.Event().wait()
        return "never"

    step = asyncio.create_task(steps.run(agent))
    await asyncio.wait_for(waiting.wait(), 10)
    act(steps.environment)
    return await step


@pytest.mark.parametrize(
    "reason",
    [
        {"cancel_requested": True},
        {"timed_out": True},
        {"not_found": True},
        {"cancel_requested": True, "worker_shutdown": True},
    ],
)
async def test_step_that_is_cancelled_returns_its_outcome(steps: Steps, reason: dict[str, bool]) -> None:
    """A cancelled step is data too, with what it spent."""
    outcome = await _while_waiting(steps, lambda running: running.cancel(ActivityCancellationDetails(**reason)))
    text = "Task cancelled by caller"
    assert outcome == failed(text, output=text, status="cancelled", usage=Usage(input_tokens=10))


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        ({"worker_shutdown": True}, "WorkerShutdown", "worker is shutting down"),
        ({"paused": True}, "ActivityPaused", "the activity was paused"),
        ({"reset": True}, "ActivityReset", "the activity was reset"),
    ],
)
async def test_step_that_its_worker_lets_go_is_tried_elsewhere(
    steps: Steps, reason: dict[str, bool], kind: str, text: str
) -> None:
    """A worker that shuts down raises what Temporal retries, and hands on what was spent."""
    with pytest.raises(ApplicationError) as raised:
        await _while_waiting(steps, lambda running: running.cancel(ActivityCancellationDetails(**reason)))
    failure = raised.value
    assert (failure.type, failure.message, failure.non_retryable) == (kind, text, False)
    assert failure.details == (failed(text, usage=Usage(input_tokens=10)),)
    assert steps.beats == [{"task": "t", "usage": {"input_tokens": 10, "total_tokens": 10}}]


async def test_step_past_its_agents_limit_times_out(steps: Steps) -> None:
    """An agent that does not answer in time is cancelled; its step has a status of its own."""

    async def agent(step: AgentStepSpec, context: StepContext) -> str:
        context.record_after_llm(Usage(input_tokens=1))
        await asyncio.Event().wait()
        return "never"

    outcome = await steps.run(agent, limit=0.1)
    text = "agent 'a' did not answer within its 0.1 s ('timeout_seconds')"
    assert outcome == failed(text, status="timed_out", usage=Usage(input_tokens=1))
