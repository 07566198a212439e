"""Random stage graphs on a real server end as a reference interpreter says, whatever their shape.

Every run draws the same graphs. More, and others, by hand:

    EXAMPLES=200 SEED=7 python -m pytest tests/workflow/test_graph_random.py
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from tests.graph_reference import Visit, walk
from tests.support import World, failure_of, served
from workflows import supply, wire

EXAMPLES = int(os.environ.get("EXAMPLES", "20"))
SEED = os.environ.get("SEED")
AT_ONCE = 4
# Graphs of one example, all run at the same time: a run mostly waits for the server.
LIMIT_SECONDS = 60.0
# A run takes a fraction of a second; one that takes this long has not ended by itself.

AGENTS = """
[agents.echo]
executor = "echo"
[agents.yes]
executor = "echo"
answer = "yes"
[agents.no]
executor = "echo"
answer = "no"
[agents.broken]
executor = "echo"
fail = "the disk is full"
"""

Json = dict[str, Any]

KEYS = st.sampled_from("abc")
VALUES = st.sampled_from([None, True, False, 0, 1, 1.0, 2, 10, "a", "ab", "b", "1", "yes", ["a", 1], [2], []])
LISTS = st.lists(st.sampled_from([0, 1, True, "a", "ab", [2]]), max_size=3)
REFERENCES = st.sampled_from(["{{a}}", "{{b}}", "{{a}} and {{b}}", "{{item}}"])
WRITTEN = st.one_of(VALUES, VALUES, VALUES, VALUES, LISTS, REFERENCES)
# What an author writes where references are replaced.
FOUND = VALUES | LISTS | st.just("{{b}}")
# What a start brings: a text that looks like a reference and is none.
TASKS = st.sampled_from(["yes", "yes", "Look", "Look", "Look at {{a}}", "{{b}}", "{{index}}: {{item}}"])
OPERATORS = st.sampled_from(["eq", "neq", "gt", "gte", "lt", "lte", "contains", "exists", "not_exists", "like"])
CHECKS = st.sampled_from(["exists", "neq"]) | OPERATORS
ERROR_OPERATORS = st.sampled_from(["exists", "not_exists"])
# Of what a stage failed with, the contract leaves most texts open.


def condition(key: str, operator: str, value: Any) -> Json:
    return {"key": key, "operator": operator, "value": value}


def write(key: str, value: str) -> Json:
    return {
        "type": "state_write",
        "parameters": {"key": key, "value": value},
        "preconditions": [],
        "expected_effects": {},
        "state_dependencies": [],
        "failure_behavior": "abort",
    }


def proposal(*listed: Json) -> Json:
    return {"type": "proposal", "proposal": {"actions": list(listed)}}


@cache
def conditions(names: tuple[str, ...]) -> st.SearchStrategy[list[Json]]:
    """What edges and loops ask: state keys, and how stages ended."""
    stages = st.sampled_from(names)
    answers = st.sampled_from(["yes", "no", "Look", "1", "2 succeeded, 0 failed", '"a"', ""])
    one = st.one_of(
        st.builds(condition, KEYS, OPERATORS, VALUES),
        st.builds(condition, stages.map("stage.{}.succeeded".format), st.just("eq"), st.booleans()),
        st.builds(condition, stages.map("stage.{}.answer".format), OPERATORS, answers),
        st.builds(condition, stages.map("stage.{}.error".format), ERROR_OPERATORS, st.none()),
        st.builds(condition, stages.map("stage.{}.iteration".format), OPERATORS, st.integers(1, 3)),
    )
    return st.lists(one, max_size=2)


@cache
def parameters(kind: str) -> st.SearchStrategy[Json]:
    match kind:
        case "state_write":
            return st.fixed_dictionaries({"key": KEYS, "value": WRITTEN})
        case "state_read":
            return st.fixed_dictionaries({"key": KEYS})
    return st.just({})


@st.composite
def actions(draw: st.DrawFn) -> Json:
    kind = draw(st.sampled_from(["state_write"] * 4 + ["state_read", "assertion"]))
    checked = st.builds(condition, KEYS, CHECKS, VALUES)
    return {
        "type": kind,
        "parameters": draw(parameters(kind)),
        "preconditions": draw(st.lists(checked, min_size=kind == "assertion", max_size=kind == "assertion")),
        "expected_effects": draw(st.just({}) | st.dictionaries(KEYS, VALUES, max_size=1)),
        "state_dependencies": draw(st.just([]) | st.just([]) | st.lists(KEYS, max_size=1)),
        "failure_behavior": draw(st.sampled_from(["abort", "skip", "retry"])),
    }


PROPOSALS = st.lists(actions(), max_size=4).map(lambda listed: proposal(*listed))


@st.composite
def patterns(draw: st.DrawFn) -> Json:
    """A pattern whose agents' replies do not depend on how it words what it asks them."""
    first = draw(st.sampled_from(["echo", "yes", "echo", "no", "broken"]))
    names = [first, *draw(st.lists(st.sampled_from(["yes", "no", "broken"]), max_size=2, unique=True))]
    agents = [{"name": name} for name in dict.fromkeys(names)]
    kind = draw(st.sampled_from(["pipeline", "swarm_sequential", "vote", "fleet"]))
    return {"type": "pattern", "pattern": kind, "task": draw(TASKS), "agents": agents, "config": {}}


@cache
def steps(name: str, depth: int) -> st.SearchStrategy[Json]:
    """A step of the stage `name`; only so deep inside others may it hold another."""
    leaves = st.one_of(PROPOSALS, PROPOSALS, PROPOSALS, patterns())
    if depth == 0:
        return leaves
    body = st.deferred(lambda: steps(name, depth - 1))
    nested = graphs(depth - 1, f"{name}-").map(lambda graph: {"type": "sub_workflow", "workflow": graph})
    until = conditions((name,))
    loop = st.fixed_dictionaries(
        {"type": st.just("loop_until"), "body": body, "until": until, "max_iterations": st.integers(1, 3)}
    )
    items = st.fixed_dictionaries({"type": st.just("for_each"), "items_from": st.just("list") | KEYS, "body": body})
    return st.one_of(leaves, leaves, nested, loop, items)


@cache
def compensations(names: tuple[str, ...]) -> st.SearchStrategy[Json | None]:
    referred = st.sampled_from(names).map(lambda name: {"type": "stage_ref", "stage_id": name})
    swaps = st.builds(proposal, *[st.builds(write, KEYS, REFERENCES)] * 2)
    return st.one_of(st.none(), PROPOSALS, swaps, swaps, referred, referred)


@st.composite
def graphs(draw: st.DrawFn, depth: int = 2, prefix: str = "s") -> Json:
    """A graph that verify has nothing against, cycles included; every field that the reference reads is there."""
    count = draw(st.sampled_from([4, 6, 8, 12, 2, 1]) if prefix == "s" else st.integers(1, 3))
    names = tuple(f"{prefix}{number}" for number in range(count))
    undone, found = compensations(names), FOUND if prefix == "s" else VALUES | WRITTEN
    stages = [
        {
            "id": name,
            "step": draw(steps(name, depth)),
            "compensation": draw(undone),
            "on_failure": draw(st.sampled_from(["compensate", "route"])),
        }
        for name in names
    ]
    if draw(st.booleans()):
        stages[-1] |= {"step": proposal(write("a", "{{missing}}")), "on_failure": "compensate"}
    leads = st.sampled_from(names)
    edge = st.fixed_dictionaries({"from": leads, "to": leads, "conditions": conditions(names)})
    edges = draw(st.lists(edge, max_size=len(names)))
    onward = [
        {"from": one, "to": other, "conditions": []} for one, other in pairwise(names) if draw(st.integers(0, 9)) < 9
    ]
    return {
        "id": prefix,
        "name": prefix,
        "start": names[0],
        "stages": stages,
        "edges": [*edges, *onward],
        "max_iterations": draw(st.sampled_from([12, 15, 12, 9, 5, 2])),
        "goal": draw(st.none() | st.just("be good")),
        "initial_state": {"list": draw(LISTS), **draw(st.dictionaries(KEYS, found, min_size=2))},
    }


def outcome(status: str, visits: list[Visit], state: Json) -> Json:
    """What is compared. Values are told apart as JSON does it, where Python takes true, 1 and 1.0 for one."""
    exact = {key: value if isinstance(value, str) else (json.dumps(value),) for key, value in state.items()}
    return {"status": status, "visits": visits, "state": exact}


def expected(graph: Json) -> Json:
    """How a graph ends by the reference."""
    visits: list[Visit] = []
    ended = walk(graph, graph["initial_state"], visits)
    return outcome(ended.status, visits, ended.state)


async def ended(world: World, graph: Json) -> Json:
    """How a run of a graph ends; one that does not complete fails, with its status and the same result."""
    handle = await world.start(wire.STAGE_GRAPH_WORKFLOW, graph)
    try:
        result, kind = await asyncio.wait_for(handle.result(), LIMIT_SECONDS), "completed"
    except TimeoutError:
        await handle.terminate()
        pytest.fail(f"this graph has not ended within {LIMIT_SECONDS:g} s: {json.dumps(graph)}")
    except WorkflowFailureError:
        failure = await failure_of(handle)
        assert isinstance(failure, ApplicationError), repr(failure)
        assert failure.details, f"a run that failed without a result: {failure.message}"
        result, kind = failure.details[0], failure.type or ""
    assert result["status"] == kind
    return outcome(kind, visits_of(result), result["final_state"])


def visits_of(result: Json) -> list[Visit]:
    """Stages and compensations of a result, those of a nested graph before the stage that holds it."""
    visits: list[Visit] = []
    for stage in result["stages"]:
        visits += [visit for nested in nested_in(stage["output"]) for visit in visits_of(nested)]
        visits.append((stage["stage_id"], stage["status"], stage.get("error")))
    undone = result["compensations"]
    return visits + [(f"undo {each['for_stage_id']}", each["status"], each.get("error")) for each in undone]


def nested_in(output: Json) -> Iterator[Json]:
    """Results of the graphs in an output, in order."""
    if output["type"] == "sub_workflow":
        yield output["result"]
    for inner in (*output.get("iterations_output", ()), *(output.get("outputs", ()) if "items" in output else ())):
        yield from nested_in(inner)


@pytest.fixture(scope="module", params=[None, (0, 2)], ids=["in the run", "in children"])
async def world(client: Client, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Once as it is, and once with children that carry two steps or items each, from the first on."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param is not None:
            patch.setattr(supply, "INLINE_STEPS", request.param[0])
            patch.setattr(supply, "SLICE_STEPS", request.param[1])
        async with served(client, agents=AGENTS) as world:
            yield world


def seeded(test: Callable[..., Any]) -> Callable[..., Any]:
    return test if SEED is None else seed(int(SEED))(test)


@seeded
@settings(
    max_examples=EXAMPLES,
    derandomize=SEED is None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(definitions=st.lists(graphs(), min_size=1, max_size=AT_ONCE))
async def test_random_graph_ends_as_the_reference_says(world: World, definitions: list[Json]) -> None:
    """Every graph ends: with the stages, the status, the compensations and the state of the reference."""
    told = await asyncio.gather(*(ended(world, definition) for definition in definitions))
    assert told == [expected(definition) for definition in definitions]


async def test_reference_in_a_compensation_reads_the_state_at_the_failure(world: World) -> None:
    """What the compensation itself writes is not read, neither by a loop nor by the items of a `for_each`."""
    loop = {"type": "loop_until", "max_iterations": 2, "until": [], "body": proposal(write("a", "{{a}}+"))}
    items = {"type": "for_each", "items_from": "list", "body": loop}
    steps_by_id = {"loop": loop, "items": items, "fails": proposal(write("a", "{{missing}}"))}
    stages = [
        {
            "id": name,
            "step": step,
            "compensation": {"type": "stage_ref", "stage_id": name},
            "on_failure": "compensate",
        }
        for name, step in steps_by_id.items()
    ]
    graph = {
        "id": "g",
        "name": "g",
        "start": "loop",
        "stages": stages,
        "edges": [{"from": one, "to": other, "conditions": []} for one, other in pairwise(steps_by_id)],
        "max_iterations": 5,
        "goal": None,
        "initial_state": {"list": [1], "a": "a"},
    }
    told = await ended(world, graph)
    assert told == expected(graph)
    assert (told["status"], told["state"]["a"]) == ("compensated", "a+++")
    assert told["state"]["foreach.items.0.state.a"] == "a+++"
