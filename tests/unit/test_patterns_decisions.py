"""What the patterns decide without asking anybody: tallies, brackets, verdicts, approvals."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.graph.results import AgentOutput, ReviewFinding
from workflows.patterns import prompts
from workflows.patterns.adversarial_review import verdict
from workflows.patterns.asking import reply
from workflows.patterns.delegator import Delegation, requested
from workflows.patterns.supervisor import approval
from workflows.patterns.tournament import paired
from workflows.patterns.vote import Tally, counted
from workflows.steps import StepOutcome


def outputs(*answers: str) -> list[AgentOutput]:
    return [AgentOutput(name=f"a{number}", answer=answer) for number, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        pytest.param("APPROVED", "", id="alone"),
        pytest.param("\n APPROVED the answer \n", "the answer", id="space around"),
        pytest.param("APPROVED:\nthe answer", "the answer", id="colon"),
        pytest.param("APPROVED\n- one\n- two", "- one\n- two", id="a list follows"),
        pytest.param("NOT APPROVED", None, id="not at the start"),
        pytest.param("Approved", None, id="another word"),
        pytest.param("APPROVEDLY", None, id="a longer word"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_approval_is_what_follows_the_word(text: str, rest: str | None) -> None:
    """Only the word at the start approves."""
    assert approval(text) == rest


@given(st.lists(st.sampled_from(["yes", " Yes", "NO", "no ", "maybe", ""]), min_size=1).filter(any))
def test_counted_finds_the_most_common_answer(answers: list[str]) -> None:
    """Its votes are the most there are, it is written as its first voter wrote it, and of equals it came first."""
    votes = Counter(answer.strip().lower() for answer in answers if answer)
    first = next(answer for answer in answers if answer and votes[answer.strip().lower()] == max(votes.values()))
    assert counted(outputs(*answers)) == Tally(answer=first, votes=max(votes.values()), voters=len(answers))


@given(st.integers(min_value=1, max_value=40))
def test_paired_leaves_one_after_as_many_matches_as_losers(count: int) -> None:
    """Every match takes one competitor out, each round has at most one bye, and the order is kept."""
    left, matches = outputs(*map(str, range(count))), 0
    while len(left) > 1:
        pairs, byes = paired(left)
        assert [*(each for pair in pairs for each in pair), *byes] == left
        assert len(byes) == len(left) % 2
        left, matches = [one for one, _ in pairs] + byes, matches + len(pairs)
    assert (left[0].name, matches) == ("a0", count - 1)


@given(st.lists(st.tuples(st.sampled_from(["blocker", "major", "minor", "info"]), st.booleans())))
def test_verdict_is_no_blocker_and_no_failing_major(found: list[tuple[str, bool]]) -> None:
    """Nothing else counts."""
    findings = [
        ReviewFinding.model_validate({"criterion": "c", "severity": severity, "passed": passed})
        for severity, passed in found
    ]
    result = verdict(findings, "reviewer")
    assert result.passed is not (any(severity == "blocker" for severity, _ in found) or ("major", False) in found)
    assert result.blocker_count == [severity for severity, _ in found].count("blocker")


@pytest.mark.parametrize(
    ("structured", "delegations"),
    [
        pytest.param(None, None, id="a text is an answer"),
        pytest.param({"answer": 1}, None, id="another object is an answer"),
        pytest.param({"delegate": []}, [], id="nobody to ask"),
        pytest.param({"delegate": [{"specialist": "bob", "subtask": "x"}]}, [Delegation("bob", "x")], id="one"),
        pytest.param({"delegate": {"specialist": "bob", "subtask": "x"}}, [Delegation("bob", "x")], id="no list"),
        pytest.param(
            {"delegate": [{"specialist": "eve", "subtask": "x"}]},
            [Delegation("eve", "x", "there is no specialist 'eve'. There are: 'bob'.")],
            id="unknown",
        ),
        pytest.param(
            {"delegate": [{"specialist": "bob"}]},
            [
                Delegation(
                    "?",
                    '{"specialist":"bob"}',
                    'a delegation is an object with the texts "specialist" and "subtask".',
                )
            ],
            id="half of one",
        ),
    ],
)
def test_requested_reads_what_is_delegated(structured: object, delegations: list[Delegation] | None) -> None:
    """What cannot be run says why, so that the main agent learns of it."""
    outcome = StepOutcome.model_validate(
        {"task_id": "lead", "agent": "lead", "output": "…", "success": True, "structured": structured}
    )
    assert requested(reply("lead", outcome), ["bob"]) == delegations


def test_prompts_hold_succeeded_answers_only() -> None:
    """An agent that failed, or said nothing, is not quoted."""
    answers = [*outputs("red", ""), AgentOutput(name="ill", answer="half", error="ill")]
    assert prompts.named(answers) == "[a0]\nred"
    assert prompts.with_findings("the task", answers) == "the task\n\nPrior agents' findings:\n[a0]\nred"
    assert prompts.with_findings("the task", []) == "the task"
    assert prompts.critique("the task", []) == "the task"
    assert prompts.mapping("the task", "") == "the task\n\nItem:\n"
