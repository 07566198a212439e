"""Patterns that choose (vote, adversarial_review, tournament), row by row of docs/patterns.md."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory

from tests import pattern_programs as programs
from tests.pattern_programs import AGENTS, agent, fails, plan, run, says
from tests.support import World, events_of, served
from workflows.patterns import prompts


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, programs.Patterned, agents=AGENTS) as world:
        yield world


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        pytest.param(["No", " yes ", "YES"], " yes ", id="trimmed and lower-cased, as first written"),
        pytest.param(["b", "a", "A", "B"], "b", id="a tie goes to the lower index"),
        pytest.param([{"fail": "ill"}, {"fail": "ill"}, "c"], "c", id="who failed does not count"),
    ],
)
async def test_vote_takes_the_most_common_answer(world: World, votes: list[Any], winner: str) -> None:
    """Answers are compared trimmed and in lower case."""
    names = ["alice", "bob", "carol", "dave"]
    result = await run(world, "vote", [says(name, reply) for name, reply in zip(names, votes, strict=False)])
    assert result["final_answer"] == winner


async def test_vote_leaves_it_to_its_synthesizer(world: World) -> None:
    """With a synthesizer its answer wins, whatever the quorum is."""
    agents = [says("alice", "a"), agent("bob", plays={"bob": "b", "bob_synthesis": "neither"})]
    result = await run(world, "vote", agents, synthesizer_index=1, quorum=1)
    assert result["final_answer"] == "neither"


async def test_vote_tells_its_ratio(world: World) -> None:
    """How much of the voters agreed is an event of the run; a synthesizer's answer has 1.0."""
    agents = [says("alice", "a"), says("bob", "b"), says("carol", "A"), says("dave", "a")]
    for config, ratio in (({}, 0.75), ({"synthesizer_index": 0}, 1.0)):
        handle = await world.start("Patterned", plan("vote", agents, **config))
        await handle.result()
        assert [event["fields"] for event in await events_of(handle, "log")] == [{"ratio": ratio}]


async def test_vote_without_its_quorum_fails(world: World) -> None:
    """The quorum is a share of all voters: those that failed agreed to nothing."""
    agents = [says("alice", "a"), says("bob", "a"), says("carol", "b"), fails("dave")]
    assert (await run(world, "vote", agents, quorum=0.5))["final_answer"] == "a"
    result = await run(world, "vote", agents, quorum=0.6)
    assert result["failed"] == "stage 'vote' failed: no quorum: 'a' has 2 of 4 voters (0.50), and it takes 0.6."


async def test_vote_with_choices_takes_no_guess(world: World) -> None:
    """Voters that must choose reply with structured output; a reply that fits no choice is a failed one."""
    agents = [says("alice", {"choice": "maybe"}), says("bob", "yes"), says("carol", {"choice": "no"})]
    result = await run(world, "vote", agents, choices=["yes", "no"])
    assert [(output["name"], output["answer"]) for output in result["outputs"] if "error" not in output] == [
        ("carol", "no")
    ]
    assert result["final_answer"] == "no"


def finding(severity: str, *, passed: bool) -> dict[str, Any]:
    return {"criterion": "tested", "passed": passed, "evidence": "seen", "severity": severity}


@pytest.mark.parametrize(
    ("findings", "claimed", "passed", "blockers"),
    [
        pytest.param([], False, True, 0, id="nothing found"),
        pytest.param([finding("minor", passed=False)], False, True, 0, id="a minor one"),
        pytest.param([finding("major", passed=True)], True, True, 0, id="a major one that is met"),
        pytest.param([finding("major", passed=False)], True, False, 0, id="a failing major one"),
        pytest.param([finding("blocker", passed=False)], True, False, 1, id="a blocker"),
    ],
)
async def test_adversarial_review_computes_its_verdict(
    world: World, findings: list[Any], claimed: bool, passed: bool, blockers: int
) -> None:
    """Passed is no blocker and no failing major, whatever the reviewer claims."""
    reviewer = says("reviewer", {"passed": claimed, "findings": findings})
    result = await run(world, "adversarial_review", [reviewer], review_key="draft", state={"draft": "text"})
    assert (result["passed"], result["blocker_count"], len(result["findings"])) == (passed, blockers, len(findings))


@pytest.mark.parametrize(
    ("state", "reply", "evidence"),
    [
        pytest.param({}, "", "There is no work to review at 'draft'.", id="no work"),
        pytest.param({"draft": " \n"}, "", "There is no work to review at 'draft'.", id="empty work"),
        pytest.param(
            {"draft": "text"},
            "PASS",
            "The reviewer's reply is not the JSON asked for: structured output failed: the answer holds no JSON object",
            id="no JSON",
        ),
        pytest.param(
            {"draft": "text"},
            'The work says {"passed": true, "findings": []} of itself.',
            "The reviewer's reply is not the JSON asked for: there is text around it.",
            id="JSON quoted in prose",
        ),
    ],
)
async def test_adversarial_review_fails_closed(world: World, state: Any, reply: str, evidence: str) -> None:
    """Without work, or without a verdict in the form that was asked for, nothing passes."""
    result = await run(
        world, "adversarial_review", [says("reviewer", reply)], review_key="draft", criteria="tested", state=state
    )
    assert result == {
        "type": "review",
        "passed": False,
        "blocker_count": 1,
        "findings": [{"criterion": "review", "passed": False, "evidence": evidence, "severity": "blocker"}],
        "reviewer": "reviewer",
    }


async def test_adversarial_review_shows_work_and_criteria_alone(world: World) -> None:
    """The reviewer is fresh: neither the task nor the rest of the state reaches it."""
    argument = plan(
        "adversarial_review",
        [says("reviewer", '```json\n{"passed": true, "findings": []}\n```')],
        review_key="draft",
        criteria=["short", "true"],
        state={"draft": {"n": 1}, "secret": "hidden"},
    )
    handle = await world.start("Patterned", argument)
    assert (await handle.result())["passed"] is True
    [prompt] = prompts_of(await handle.fetch_history())
    assert prompt == prompts.review(["short", "true"], '{"n":1}')
    assert "the task" not in prompt


def prompts_of(history: WorkflowHistory) -> list[str]:
    return [
        json.loads(event.activity_task_scheduled_event_attributes.input.payloads[0].data)["spec"]["prompt"]
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]


async def test_tournament_eliminates_until_one_is_left(world: World) -> None:
    """Neighbours meet, the odd one out has a bye, and each match is a fresh step of the judge."""
    plays = {"judge_match_1": {"winner": "bob"}, "judge_match_2": {"winner": "carol"}}
    agents = [says("alice", "1"), says("bob", "2"), says("carol", "3"), agent("judge", plays=plays)]
    result = await run(world, "tournament", agents)
    assert [output.get("outcome") for output in result["outputs"][3:]] == [
        {"winner": "bob", "by": "judge"},
        {"winner": "carol", "by": "judge"},
    ]
    assert result["final_answer"] == "3"


async def test_tournament_goes_on_in_order_where_the_judge_names_neither(world: World) -> None:
    """A reply that fits no choice is a failed one; the earlier competitor goes on, and the output says why."""
    plays = {"judge_match_1": {"winner": "mallory"}, "judge_match_2": {"winner": "dave"}, "*": {"winner": "dave"}}
    agents = [agent("judge", plays=plays), *(says(name, name) for name in ("alice", "bob", "carol", "dave"))]
    result = await run(world, "tournament", agents, judge_index=0)
    assert [output["outcome"] for output in result["outputs"][4:]] == [
        {"winner": "alice", "by": "order"},
        {"winner": "dave", "by": "judge"},
        {"winner": "dave", "by": "judge"},
    ]
    assert "structured output failed" in result["outputs"][4]["error"]
    assert result["final_answer"] == "dave"


async def test_tournament_without_any_judgement_fails(world: World) -> None:
    """A judge that never judged made no winner; one competitor needs none."""
    result = await run(world, "tournament", [says("alice", "1"), says("bob", "2"), fails("judge")])
    assert result["failed"] == "stage 'tournament' failed: the judge 'judge' decided no match: no idea"
    assert (await run(world, "tournament", [says("alice", "1"), fails("bob"), fails("judge")]))["final_answer"] == "1"
