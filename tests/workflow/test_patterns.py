"""The patterns, row by row of docs/patterns.md, on a real server with scripted agents."""

import json
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any, get_args

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from runtime.replaying import replay_histories
from runtime.settings import Settings
from tests import pattern_programs as programs
from tests.histories import most_at_once
from tests.pattern_programs import AGENTS, agent, fails, plan, run, said, says
from tests.support import World, event_types, events_of, failure_of, served, wait_until
from workflows import supply
from workflows.graph.definition import PatternKind
from workflows.patterns import prompts

NOBODY = "agent error: no agents produced output"
FINDINGS = "the task\n\nPrior agents' findings:\n"


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    workflows = (programs.Patterned, programs.Voting, programs.Unhandled)
    async with served(client, *workflows, agents=AGENTS) as world:
        yield world


async def test_swarm_parallel_lists_the_answers(world: World) -> None:
    """Without a synthesizer the succeeded answers count, each under its agent's name; who failed is still reported."""
    result = await run(world, "swarm_parallel", [says("alice", "red"), fails("bob"), says("carol", "blue")])
    assert said(result) == [("alice", "red"), ("bob", "no idea"), ("carol", "blue")]
    assert result["final_answer"] == "[alice]\nred\n\n[carol]\nblue"


async def test_swarm_parallel_asks_its_synthesizer_too(world: World) -> None:
    """The synthesizer works on the task as all do, and then combines what they found."""
    result = await run(world, "swarm_parallel", [says("alice", "red"), agent("bob")], synthesizer_index=1)
    synthesis = "the task\n\nAnswers of the agents:\n[alice]\nred\n\n[bob]\nthe task\n\nCombine them into one answer."
    assert said(result) == [("alice", "red"), ("bob", "the task"), ("bob_synthesis", synthesis)]
    assert result["final_answer"] == synthesis


async def test_swarm_parallel_outlives_its_synthesizer(world: World) -> None:
    """A synthesizer that fails costs its own answer, not those of the others."""
    plays = {"bob": "blue", "bob_synthesis": {"fail": "too tired"}}
    result = await run(world, "swarm_parallel", [says("alice", "red"), agent("bob", plays=plays)], synthesizer_index=1)
    assert said(result) == [("alice", "red"), ("bob", "blue"), ("bob_synthesis", "too tired")]
    assert result["final_answer"] == "[alice]\nred\n\n[bob]\nblue"


async def test_swarm_parallel_numbers_repeated_names(world: World) -> None:
    """Agents of one name are told apart by a suffix."""
    result = await run(world, "swarm_parallel", [says("alice", "1"), says("alice", "2")])
    assert said(result) == [("alice", "1"), ("alice_2", "2")]


async def test_swarm_sequential_passes_findings_on(world: World) -> None:
    """Each later task ends with the earlier succeeded answers; the last succeeded answer is the final one."""
    agents = [says("alice", "red"), fails("bob"), agent("carol"), fails("dave")]
    result = await run(world, "swarm_sequential", agents)
    heard = f"{FINDINGS}[alice]\nred"
    assert said(result) == [("alice", "red"), ("bob", "no idea"), ("carol", heard), ("dave", "no idea")]
    assert result["final_answer"] == heard


async def test_swarm_debate_shows_the_others_answers(world: World) -> None:
    """In round 2 each critic sees the answers of the others; the answers of both rounds count."""
    agents = [agent("alice", plays={"alice": "red"}), agent("bob", plays={"bob": "blue", "bob_critique": "still blue"})]
    result = await run(world, "swarm_debate", agents)
    heard = "the task\n\nAnswers of the other agents:\n[bob]\nblue\n\nCritique them, then give your improved answer."
    assert said(result) == [
        ("alice", "red"),
        ("bob", "blue"),
        ("alice_critique", heard),
        ("bob_critique", "still blue"),
    ]
    assert result["final_answer"] == (
        f"[alice]\nred\n\n[bob]\nblue\n\n[alice_critique]\n{heard}\n\n[bob_critique]\nstill blue"
    )


async def test_swarm_debate_takes_rounds_and_a_synthesizer(world: World) -> None:
    """Rounds and synthesizer_index work here too: round 3 has names of its own."""
    agents = [says("alice", "red"), says("bob", "blue")]
    result = await run(world, "swarm_debate", agents, rounds=3, synthesizer_index=0)
    assert [name for name, _ in said(result)] == [
        *("alice", "bob", "alice_critique", "bob_critique", "alice_critique_2", "bob_critique_2", "alice_synthesis")
    ]
    assert result["final_answer"] == "red"


async def test_pipeline_hands_the_previous_answer_on(world: World) -> None:
    """Each sees the answer before it, and only that; an agent that failed left none."""
    agents = [says("alice", "red"), says("bob", "blue"), fails("carol"), agent("dave")]
    result = await run(world, "pipeline", agents)
    assert result["final_answer"] == f"{FINDINGS}[bob]\nblue"


async def test_pipeline_fails_with_its_last_agent(world: World) -> None:
    """The last agent's answer is the pipeline's, so without it the stage fails, and reports what there is."""
    result = await run(world, "pipeline", [says("alice", "red"), fails("bob")])
    assert result["failed"] == "stage 'pipeline' failed: the last agent 'bob' failed: no idea"
    assert said(result) == [("alice", "red"), ("bob", "no idea")]


@pytest.mark.parametrize(
    ("reply", "final_answer"),
    [
        pytest.param("APPROVED\n\nship it", "ship it", id="its own answer follows"),
        pytest.param("APPROVED: ship it", "ship it", id="behind a colon"),
        pytest.param("APPROVED", "a draft", id="nothing follows: the worker's answer"),
        pytest.param("NOT APPROVED", "[max supervision rounds reached] NOT APPROVED", id="the word inside"),
        pytest.param("APPROVEDLY so", "[max supervision rounds reached] APPROVEDLY so", id="another word"),
    ],
)
async def test_supervisor_approves_at_the_start_of_its_reply(world: World, reply: str, final_answer: str) -> None:
    """Only a reply that starts with APPROVED approves, and what follows it is the answer."""
    result = await run(world, "supervisor", [says("alice", "a draft"), says("boss", reply)], max_rounds=1)
    assert result["final_answer"] == final_answer


async def test_supervisor_sends_workers_back_with_its_feedback(world: World) -> None:
    """From round 2 on the workers get the feedback behind the task."""
    boss = agent("boss", plays={"boss_round_1": "shorter", "boss_round_2": "APPROVED fine"})
    result = await run(world, "supervisor", [boss, agent("alice", plays={"alice_round_1": "long"})], supervisor_index=0)
    assert said(result) == [
        ("alice", "long"),
        ("boss", "shorter"),
        ("alice", "the task\n\nFeedback of the supervisor:\nshorter"),
        ("boss", "APPROVED fine"),
    ]
    assert result["final_answer"] == "fine"


async def test_supervisor_gives_up_after_three_rounds(world: World) -> None:
    """Without an approval the last feedback is the answer, marked as such."""
    plays = {f"boss_round_{number}": f"feedback {number}" for number in (1, 2, 3)}
    result = await run(world, "supervisor", [says("alice", "a draft"), agent("boss", plays=plays)])
    assert result["final_answer"] == "[max supervision rounds reached] feedback 3"
    assert len(result["outputs"]) == 6


async def test_supervisor_that_never_judges_fails_the_stage(world: World) -> None:
    """Work that nobody judged is not passed off as judged."""
    result = await run(world, "supervisor", [says("alice", "a draft"), fails("boss")], max_rounds=2)
    assert result["failed"] == "stage 'supervisor' failed: the supervisor 'boss' judged no round: no idea"


async def test_delegator_runs_specialists_and_answers(world: World) -> None:
    """Each delegation is a step of its own; the main agent goes on with all results, also of those that failed."""
    wanted = [
        {"specialist": "alice", "subtask": "paint"},
        {"specialist": "bob", "subtask": "draw"},
        {"specialist": "eve", "subtask": "spy"},
        "nonsense",
    ]
    lead = agent("lead", plays={"lead_turn_1": {"delegate": wanted}})
    result = await run(world, "delegator", [lead, agent("alice"), fails("bob")])
    assert said(result)[:3] == [
        ("lead", json.dumps({"delegate": wanted}, separators=(",", ":"))),
        ("alice", "paint"),
        ("bob", "no idea"),
    ]
    results = (
        "[alice] paint\npaint\n\n[bob] draw\nFailed: no idea\n\n"
        "[eve] spy\nNot done: there is no specialist 'eve'. There are: 'alice', 'bob'.\n\n"
        '[?] nonsense\nNot done: a delegation is an object with the texts "specialist" and "subtask".'
    )
    assert result["final_answer"] == prompts.delegation("the task", ["alice", "bob"], results)


async def test_delegator_whose_agent_has_the_tool_is_one_step(world: World) -> None:
    """A main agent that calls `delegate` is suspended and goes on; its specialists' outputs are the pattern's too."""
    result = await run(world, "delegator", [agent("tooled"), agent("alice"), fails("bob")])
    assert said(result) == [("alice", "part 0"), ("bob", "no idea"), ("tooled", "part 0 and Failed: no idea")]
    assert result["final_answer"] == "part 0 and Failed: no idea"


async def test_delegator_is_bound_by_max_turns(world: World) -> None:
    """A main agent that only ever delegates ends the stage."""
    delegate = {"delegate": [{"specialist": "alice", "subtask": "paint"}]}
    lead = {**says("lead", delegate), "max_turns": 2}
    result = await run(world, "delegator", [lead, agent("alice")])
    assert result["failed"] == (
        "stage 'delegator' failed: the main agent 'lead' still delegates after 2 turns, its max_turns."
    )
    assert [name for name, _ in said(result)] == ["lead", "alice", "lead"]


async def test_map_reduce_reduces_in_item_order(world: World) -> None:
    """Items are any JSON; the reducer sees the succeeded results in their order."""
    mapper = agent("mapper", plays={"mapper_0": {"sleep": 0.2}, "mapper_1": {"fail": "bad item"}})
    result = await run(world, "map_reduce", [mapper, agent("reducer")], items=["a", 2, {"b": [1, None]}])
    third = 'the task\n\nItem:\n{"b":[1,null]}'
    assert said(result)[:3] == [("mapper_0", "late"), ("mapper_1", "bad item"), ("mapper_2", third)]
    assert result["final_answer"] == (
        f"the task\n\nResults of the items:\n[mapper_0]\nlate\n\n[mapper_2]\n{third}\n\n"
        "Bring them together in one answer."
    )


async def test_map_reduce_keeps_to_its_window(world: World) -> None:
    """At most max_concurrent items are under way, five unless it says otherwise, within the run's own window."""
    items = list(range(24))
    for config, window, most in (({}, 8, 5), ({"max_concurrent": 3}, 8, 3), ({"max_concurrent": 9}, 4, 4)):
        argument = plan("map_reduce", [says("mapper", "done"), says("reducer", "all")], items=items, **config)
        handle = await world.start("Patterned", argument, max_concurrency=window)
        assert (await handle.result())["final_answer"] == "all"
        assert await most_at_once(handle) == most


async def test_map_reduce_of_many_items_brings_what_one_of_few_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children carry the items, and their outcomes are read in parts with pauses between; here from three on."""
    mapper = agent("mapper", plays={"mapper_1": {"fail": "bad item"}, "mapper_6": "six"})
    argument = plan("map_reduce", [mapper, agent("reducer")], items=list("abcdefghij"))
    few = await world.run("Patterned", argument)
    module = import_module("workflows.patterns.map_reduce")
    monkeypatch.setattr(module, "INLINE_STEPS", 3)
    monkeypatch.setattr(supply, "INLINE_STEPS", 3)
    monkeypatch.setattr(module, "OUTPUTS_AT_ONCE", 4)
    handle = await world.start("Patterned", argument)
    assert said(await handle.result()) == said(few)
    history = await handle.fetch_history()
    pauses = [event.marker_recorded_event_attributes.marker_name for event in history.events]
    assert pauses.count("core_local_activity") == 2
    [verdict] = await replay_histories([history], [programs.Patterned], Settings())
    assert verdict.failure is None


async def test_map_reduce_refuses_a_prompt_that_no_history_takes(world: World) -> None:
    """Results too large for one reduce prompt fail the stage, and say how large they are."""
    agents = [says("mapper", "x" * 500_000), agent("reducer")]
    argument = {**plan("map_reduce", agents, items=[1, 2, 3, 4]), "brief": True}
    result = await world.run("Patterned", argument)
    assert result["failed"] == (
        "stage 'map_reduce' failed: the reducer 'reducer' failed: step 'reducer': prompt is 2.0 MB and the limit is "
        "1.9 MB. Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS)."
    )


async def test_fleet_gives_each_agent_its_own_task(world: World) -> None:
    """metadata.task, else the step's task; failures and timeouts are counted, not raised."""
    agents = [agent("alice", task="paint"), agent("bob"), fails("carol"), says("dave", {"sleep": 60.0})]
    result = await run(world, "fleet", agents, timeout_secs=1.5)
    assert said(result) == [("alice", "paint"), ("bob", "the task"), ("carol", "no idea"), ("dave", "timeout")]
    assert result["final_answer"] == "2 succeeded, 2 failed"


async def test_fleet_never_fails_for_its_agents(world: World) -> None:
    """Where all fail, or there is none, the stage succeeds and counts."""
    assert (await run(world, "fleet", [fails("alice")]))["final_answer"] == "0 succeeded, 1 failed"
    assert (await run(world, "fleet", []))["final_answer"] == "0 succeeded, 0 failed"


@pytest.mark.parametrize("pattern", [kind for kind in get_args(PatternKind) if kind != "fleet"])
async def test_every_pattern_but_fleet_needs_an_answer(world: World, pattern: str) -> None:
    """Where no agent at all succeeded, the stage fails with the one text for it."""
    config: dict[str, Any] = {"items": [1]} if pattern == "map_reduce" else {}
    config = {"review_key": "draft", "state": {"draft": "x"}} if pattern == "adversarial_review" else config
    result = await run(world, pattern, [fails("alice"), fails("bob")], **config)
    assert result["failed"] == NOBODY
    assert {error for _, error in said(result)} == {"no idea"}


async def test_wrong_settings_schedule_nothing(world: World) -> None:
    """A config value of the wrong type is refused before any agent is asked, by the key's name."""
    handle = await world.start("Patterned", plan("vote", [says("alice", "a")], quorum="most", synthesizer_index=True))
    assert await handle.result() == {
        "failed": "stage 'vote' failed: config key 'synthesizer_index' is True, and it takes the index of an agent, "
        "counted from 0; config key 'quorum' is 'most', and it takes a number above 0 and at most 1.",
        "outputs": [],
    }
    assert await event_types(handle) == []


async def test_unknown_settings_and_null_are_as_good_as_none(world: World) -> None:
    """A key that the pattern does not know is verify's business, and null leaves the default."""
    result = await run(world, "vote", [says("alice", "a"), fails("bob")], quorum=None, qourum=1, synthesizer_index=None)
    assert result["final_answer"] == "a"


async def test_patterns_run_from_python(world: World) -> None:
    """Agents are names of agents.toml or written out; the verbs count their steps as any others."""
    handle = await world.start("Voting", 1.0)
    assert await handle.result() == "yes"
    started = [event["step"] for event in await events_of(handle, "step_started")]
    assert started == ["c0.0:alice", "c0.0:bob", "c0.0:alice_2"]


async def test_a_failure_that_passes_ends_the_run_with_what_there_was(world: World) -> None:
    """PatternFailed fails the run for good, and its details hold the agents' outputs."""
    cause = await failure_of(await world.start("Unhandled", [fails("alice"), says("judge", "x")]))
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message) == ("PatternFailed", NOBODY)
    [outputs] = cause.details
    assert [(output["name"], output["error"]) for output in outputs] == [("alice", "no idea")]


async def test_a_cancelled_pattern_asks_nobody_else(world: World) -> None:
    """A cancel ends the agents in flight, and the pattern with them."""
    handle = await world.start("Patterned", plan("swarm_sequential", [says("alice", {"sleep": 60.0}), agent("bob")]))

    async def begun() -> bool:
        return "step_started" in await event_types(handle)

    await wait_until("the first agent is asked", begun)
    await handle.cancel()
    await failure_of(handle)
    assert await event_types(handle) == ["step_started", "step_finished"]
