"""Echo agents: the scripted world that ships with the product."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.agents import AgentActivities
from activities.blobs import FolderStore
from activities.registry import EchoAgent, Registry
from workflows.steps import AgentStepSpec, Grant, Resume, StepCall, StepOutcome, TokensNeeded, Usage


async def _run(
    *,
    store: FolderStore | None = None,
    attempt: int = 1,
    grant: Grant | None = None,
    resume: Resume | None = None,
    **script: Any,
) -> StepOutcome:
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=attempt)
    registry = Registry([EchoAgent(name="echo", **script)])
    spec = AgentStepSpec(task_id="t", agent="echo", prompt="say this")
    with ThreadPoolExecutor(1) as threads:
        activities = AgentActivities(registry, store, threads=threads)
        return await environment.run(
            activities.run_agent_step, StepCall(spec=spec, key="k", grant=grant, resume=resume)
        )


def _outcome(**fields: Any) -> StepOutcome:
    named = {"task_id": "t", "session_id": "task-run-t", "agent": "echo"}
    return StepOutcome.model_validate({"output": "say this", "success": True, **named, **fields})


async def test_echo_answers_with_its_prompt() -> None:
    """Without a script it answers what it was asked, and has spent nothing; with one it answers that."""
    assert await _run() == _outcome()
    assert await _run(answer="APPROVED") == _outcome(output="APPROVED")


async def test_echo_spends_what_it_is_told() -> None:
    """Tokens and dollars are recorded once for each turn."""
    spent = Usage(input_tokens=20, requests=2, cost_usd=0.5)
    assert await _run(turns=2, tokens=10, cost_usd=0.25) == _outcome(usage=spent)


async def test_echo_fails_as_it_is_told() -> None:
    """A scripted failure is final; scripted failures of attempts are retried first, each with what it spent."""
    assert await _run(fail="no luck") == _outcome(
        output="Task failed: no luck", error="no luck", success=False, status="failed"
    )
    with pytest.raises(ApplicationError) as failed:
        await _run(fail_attempts=1, tokens=5)
    text = "scripted failure (attempt 1 of 1 that fail)"
    assert failed.value.message == text
    assert failed.value.details == (
        _outcome(
            output=f"Task failed: {text}",
            error=text,
            success=False,
            status="failed",
            usage=Usage(input_tokens=5, requests=1),
        ),
    )
    assert await _run(fail_attempts=1, attempt=2) == _outcome(attempts=2)


async def test_echo_goes_on_from_its_checkpoint_when_it_gets_more(tmp_path: Path) -> None:
    """A grant that ends between turns suspends the step; with more it takes only the turns that are left."""
    store = FolderStore(tmp_path)
    suspended = await _run(store=store, turns=3, tokens=10, grant=Grant(tokens=25))
    [_, latest] = await store.list("steps/k")
    text = "step 't' has used 20 of the 25 tokens granted to it, and the next model call is estimated at 10"
    assert suspended == _outcome(
        output=f"Task failed: {text}",
        error=text,
        success=False,
        status="suspended",
        usage=Usage(input_tokens=20, requests=2),
        needs=TokensNeeded(at_least=10),
        transcript=latest,
    )
    resume = Resume(transcript=suspended.transcript, usage=suspended.usage)
    assert await _run(store=store, turns=3, tokens=10, grant=Grant(tokens=10), resume=resume) == _outcome(
        usage=Usage(input_tokens=30, requests=3)
    )


async def test_echo_suspended_without_a_store_takes_its_checkpoint_along() -> None:
    """Without a store the checkpoint travels in the outcome itself, so nothing is paid twice there either."""
    suspended = await _run(turns=2, tokens=10, grant=Grant(tokens=10))
    assert (suspended.status, suspended.transcript) == ("suspended", "inline:1")
    resume = Resume(transcript=suspended.transcript, usage=suspended.usage)
    assert (await _run(turns=2, tokens=10, grant=Grant(tokens=20), resume=resume)).usage.total_tokens == 20
