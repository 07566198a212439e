"""Stored models are lean, their union tags stay, and what is too large is refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from workflows import wire
from workflows.errors import PayloadTooLarge
from workflows.events import EventEnvelope, PhaseStart
from workflows.graph.results import (
    ActionResult,
    AgentOutput,
    AgentTokens,
    EmptyOutput,
    LoopOutput,
    PatternOutput,
    ProposalCost,
    ProposalOutput,
    ProposalResult,
    StageCompensation,
    StageResult,
    WorkflowResult,
)
from workflows.steps import AgentStepSpec, Grant, Resume, StepCall, StepOutcome, TokensNeeded, Usage

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_stored_leaves_out_defaults_and_keeps_tags() -> None:
    """A history holds what was set, and what tells the members of a union apart."""
    outcome = StepOutcome.model_validate(
        {
            "task_id": "a",
            "agent": "b",
            "output": "",
            "success": False,
            "status": "suspended",
            "needs": {"type": "tokens"},
        }
    )
    assert from_json(wire.encode(outcome)) == {
        "task_id": "a",
        "session_id": "task-run-a",
        "agent": "b",
        "output": "",
        "success": False,
        "status": "suspended",
        "needs": {"type": "tokens"},
    }


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(
            StepCall(
                spec=AgentStepSpec(task_id="a", agent="b", prompt="p", output_schema={"type": "object"}, max_steps=3),
                key="k",
                grant=Grant(tokens=5),
                resume=Resume(transcript="steps/k/000001", answers={"1": [True]}, usage=Usage(input_tokens=3)),
            ),
            id="call",
        ),
        pytest.param(
            StepOutcome(
                task_id="a",
                session_id="task-run-a",
                agent="b",
                output="o",
                success=False,
                needs=TokensNeeded(at_least=9),
                usage=Usage(input_tokens=1, output_tokens=2, cost_usd=0.5),
            ),
            id="outcome",
        ),
        pytest.param(
            EventEnvelope(offset=0, time="t", event=PhaseStart(name="build", index=0, step_count=2)), id="event"
        ),
    ],
)
def test_stored_comes_back_as_it_was(value: wire.Stored) -> None:
    """What a history holds reads back to the same value."""
    assert type(value).model_validate_json(wire.encode(value)) == value


@given(json_values)
def test_plain_is_what_the_serializer_writes(value: Any) -> None:
    """A graph's result leaves as the same JSON whichever way it is made, at every depth of its models."""
    acted = ActionResult(action_id="a", status="succeeded", output=value, state_changes={"k": value})
    proposed = ProposalOutput(result=ProposalResult(proposal_id="p", results=(acted,), cost=ProposalCost(retries=1)))
    asked = PatternOutput(outputs=(AgentOutput(name="n", answer="a", tokens=AgentTokens()),), final_answer="")
    looped = LoopOutput(iterations=2, satisfied=False, iterations_output=(proposed, EmptyOutput(), asked))
    stage = StageResult(stage_id="s", stage_name="S", status="succeeded", output=looped, duration_ms=0)
    result = WorkflowResult(
        workflow_id="g",
        workflow_name="G",
        status="completed",
        stages=(stage, stage),
        compensations=(StageCompensation(for_stage_id="s", status="failed", duration_ms=1, error="no"),),
        duration_ms=5,
        timestamp="t",
        final_state={"k": value},
    )
    assert wire.encode(wire.plain(result)) == wire.encode(result)


def test_stored_reads_what_a_newer_worker_wrote() -> None:
    """A worker that was rolled back ignores a field it does not know."""
    assert Grant.model_validate({"tokens": 3, "colour": "blue"}) == Grant(tokens=3)


@pytest.mark.parametrize(
    ("given_", "total"),
    [
        pytest.param({"input_tokens": 3, "output_tokens": 4}, 7, id="derived"),
        pytest.param({"total_tokens": 9}, 9, id="only the total"),
        pytest.param({"input_tokens": 3, "output_tokens": 4, "total_tokens": 12}, 12, id="more than its parts"),
        pytest.param({"input_tokens": 3, "output_tokens": 4, "total_tokens": 1}, 7, id="never less than its parts"),
    ],
)
def test_usage_total_covers_its_parts(given_: dict[str, int], total: int) -> None:
    """The budget counts total_tokens, so a reporter that leaves it out is charged all the same."""
    assert Usage.model_validate(given_).total_tokens == total


def test_usage_sum_with_an_unpriced_part_is_unpriced() -> None:
    """A sum that lacks a price is not shown as if the part had been free."""
    priced, unpriced, nothing = Usage(input_tokens=1, cost_usd=0.5), Usage(input_tokens=1), Usage()
    assert [(priced + other).cost_usd for other in (unpriced, nothing, priced)] == [None, 0.5, 1.0]


@given(json_values)
def test_bound_is_never_below_the_size(value: object) -> None:
    """What is passed unmeasured is really small enough."""
    assert wire.size(value) <= wire._bound(value)


def test_fit_names_owner_field_and_size() -> None:
    """What is too large is refused before it leaves, by name."""
    with pytest.raises(PayloadTooLarge) as refused:
        wire.fit("x" * 3_100_000, owner="step 'merge'", field="prompt")
    assert refused.value.message == (
        "step 'merge': prompt is 3.1 MB and the limit is 1.9 MB. "
        "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS)."
    )
