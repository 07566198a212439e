"""Agents as steps, and outcomes as the outputs that a pattern reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.errors import PatternFailed
from workflows.graph.results import AgentOutput, AgentTokens
from workflows.patterns.asking import Member, agent_output, failed, members, require, require_any
from workflows.steps import AgentSpec, AgentStepSpec, StepOutcome, Usage


def outcome(output: str, **more: object) -> StepOutcome:
    return StepOutcome.model_validate({"task_id": "a", "agent": "a", "output": output, "success": True, **more})


def test_question_carries_the_agent_as_its_profile() -> None:
    """An agent that is written out travels with its step; a name alone is for agents.toml."""
    spec = AgentSpec(name="alice", system_prompt="be kind")
    written_out = Member("alice_2", spec).question("hello", task_id="alice_2_round_1")
    assert written_out.name == "alice_2"
    assert written_out.spec == AgentStepSpec(task_id="alice_2_round_1", agent="alice", prompt="hello", profile=spec)
    assert Member("bob", "bob").question("hello", name="bob_critique").spec == AgentStepSpec(
        task_id="bob_critique", agent="bob", prompt="hello"
    )


@given(st.lists(st.sampled_from(["a", "a_2", "a_3", "b"]), max_size=12))
def test_members_have_names_of_their_own(names: list[str]) -> None:
    """Whatever the agents are called, no two members share a name, and the first of each keeps its own."""
    found = [member.name for member in members("fleet", names)]
    assert len(set(found)) == len(names)
    assert all(found[names.index(name)] == name for name in names)


def test_members_number_repeated_names_past_those_that_exist() -> None:
    """A suffix never takes the name of another agent."""
    assert [member.name for member in members("fleet", ["a", "a", "a_2", "a"])] == ["a", "a_3", "a_2", "a_4"]


def test_members_are_as_many_as_the_roles() -> None:
    """A pattern with roles says which it needs; an agent needs a name."""
    with pytest.raises(PatternFailed) as too_few:
        members("map_reduce", ["mapper"])
    assert too_few.value.message == "stage 'map_reduce' failed: requires at least 2 agents (mapper + reducer)"
    with pytest.raises(PatternFailed) as nobody:
        members("adversarial_review", [])
    assert nobody.value.message == "stage 'adversarial_review' failed: requires at least 1 agent (reviewer)"
    with pytest.raises(PatternFailed) as nameless:
        members("vote", ["alice", AgentSpec(name="")])
    assert nameless.value.message == "stage 'vote' failed: agent 1 has no name. Give it one."


def test_agent_output_tells_what_the_step_told() -> None:
    """Turns are model requests; tokens are there where some were spent."""
    usage = Usage(input_tokens=7, output_tokens=3, requests=2, tool_calls=4, cost_usd=0.5)
    assert agent_output("alice", outcome("hello", usage=usage, duration_ms=12)) == AgentOutput(
        name="alice",
        answer="hello",
        turns=2,
        tool_calls=4,
        duration_ms=12,
        tokens=AgentTokens(input_tokens=7, output_tokens=3, cost_usd=0.5),
    )


@pytest.mark.parametrize(
    ("output", "error", "answer"),
    [
        pytest.param("Task failed: the disk is full", "the disk is full", "", id="nothing left"),
        pytest.param("Task cancelled by caller", "Task cancelled by caller", "", id="cancelled"),
        pytest.param("Task failed: too late\n\nhalf of it", "too late", "half of it", id="late, and something left"),
        pytest.param(
            "red\n\n[structured output failed: no object]",
            "structured output failed: no object",
            "red\n\n[structured output failed: no object]",
            id="not in the form asked for",
        ),
    ],
)
def test_agent_output_of_a_failed_step_keeps_what_it_left(output: str, error: str, answer: str) -> None:
    """The error is the step's; the answer is what it produced all the same, and does not count."""
    found = agent_output("a", outcome(output, success=False, status="failed", error=error))
    assert (found.error, found.answer, found.succeeded) == (error, answer, False)


def test_require_fails_where_there_is_no_answer() -> None:
    """One text where nobody answered; the role and the agent where only the one failed that counts."""
    red = AgentOutput(name="alice", answer="red")
    ill = AgentOutput(name="bob", answer="", error="ill")
    silent = AgentOutput(name="carol", answer="")
    require_any([red, ill])
    with pytest.raises(PatternFailed) as nobody:
        require_any([ill, silent])
    assert (nobody.value.message, nobody.value.outputs) == ("agent error: no agents produced output", (ill, silent))
    for output, why in ((ill, "ill"), (silent, "its answer is empty")):
        with pytest.raises(PatternFailed) as role:
            require("map_reduce", "reducer", output, [red, output])
        assert role.value.message == f"stage 'map_reduce' failed: the reducer {output.name!r} failed: {why}"


def test_failure_details_stay_within_a_payload() -> None:
    """Outputs that no history takes are named by their size; the exception itself still has them."""
    small = failed("vote", "no quorum", [AgentOutput(name="a", answer="x")])
    assert small.details == ([AgentOutput(name="a", answer="x")],)
    large = failed("vote", "no quorum", [AgentOutput(name="a", answer="x" * 2_000_000)])
    assert large.details == ({"left_out": "1 outputs of agents: 2,000,026 bytes"},)
    assert len(large.outputs) == 1
