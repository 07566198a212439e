"""A worker is killed with SIGKILL in the middle of a graph, and another one is started: the run ends as it would have.

The middle is exact: what is to be under way then is held at a gate, and a run of the same graph that loses no worker,
its twin, passes the gates open.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from tests.crash import graphs
from tests.crash.agents import Gates
from tests.crash.checks import RESULT_SECONDS, in_flight
from tests.crash.diary import Diary
from tests.crash.graph_runs import Course, Ending, course_of, ending_of, lawful_course
from tests.crash.processes import ROOT, Ground, Process
from tests.support import World, wait_until
from workflows import wire

Measured = Callable[[str], None]
Run = WorkflowHandle[Any, Any]

DEADLINE_MS = 3_000
# Long enough to see both questions and kill the worker before it, on a busy machine too.


@pytest.fixture
def gates(ground: Ground) -> Gates:
    """The gates of the ground's agents and tools."""
    return Gates(ground.folder)


async def start(world: World, graph: dict[str, Any]) -> Run:
    return await world.start(wire.STAGE_GRAPH_WORKFLOW, graph, max_concurrency=graphs.WIDTH)


async def endings(*runs: Run) -> list[Ending]:
    """How runs ended, within a limit."""
    async with asyncio.timeout(RESULT_SECONDS):
        return list(await asyncio.gather(*(ending_of(run) for run in runs)))


async def until_held(run: Run, diary: Diary, names: Iterable[str], attempt: Mapping[str, int] | None = None) -> Course:
    """The course of a run, once exactly these are under way, and nothing else is going on.

    Each in its first attempt, or in the one that is given.
    """
    expected = sorted((name, (attempt or {}).get(name, 1)) for name in names)

    async def held() -> list[Course]:
        flying = {(work.task_id, work.attempt) for work in in_flight(diary)}
        if not flying.issuperset(expected):
            return []  # reading the history each time would keep the worker from its work
        course = await course_of(run, diary)
        return [course] if sorted((work.task_id, work.attempt) for work in course.held) == expected else []

    [course] = await wait_until(f"{expected} are under way", held)
    return course


async def test_graph_killed_in_its_patterns_answers_as_it_would_have(
    world: World, ground: Ground, diary: Diary, gates: Gates, measured: Measured
) -> None:
    """Every answer is the same, no agent that had answered is asked again, and those that had not keep their keys."""
    gates.close(set().union(*(held for _, held in graphs.PATTERNS.values())))
    runs = {kind: await start(world, graph) for kind, (graph, _) in graphs.PATTERNS.items()}
    worker = ground.worker()
    for kind, (_, held) in graphs.PATTERNS.items():
        await until_held(runs[kind], diary, held)
    worker.kill()
    gates.close(())
    ground.worker()
    twins = {kind: await start(world, graph) for kind, (graph, _) in graphs.PATTERNS.items()}

    for kind, (_, held) in graphs.PATTERNS.items():
        ending, twin = await endings(runs[kind], twins[kind])
        assert (ending.failure, ending.result["status"]) == (None, "completed"), kind
        assert ending == twin, kind
        course, undisturbed = await lawful_course(runs[kind], diary), await lawful_course(twins[kind], diary)
        assert sorted(course.finished) == sorted(undisturbed.finished), kind
        assert course.again == {name: [1, 2] for name in held}, kind
        assert undisturbed.again == {}, kind
        measured(f"{kind}: {len(course.finished)} steps, {len(held)} were repeated")


async def test_graph_killed_in_a_proposal_calls_only_what_was_under_way_again(
    world: World, ground: Ground, diary: Diary, gates: Gates, measured: Measured
) -> None:
    """A level of calls side by side, one of them in its last attempt: the lost attempt costs it no retry."""
    gates.close(graphs.HELD_CALLS)
    run = await start(world, graphs.PROPOSAL)
    worker = ground.worker()
    await until_held(run, diary, graphs.HELD_CALLS, {"flaky": 2})
    worker.kill()
    gates.close(())
    ground.worker()
    twin = await start(world, graphs.PROPOSAL)

    ending, undisturbed = await endings(run, twin)
    assert (ending.failure, ending.result["status"]) == (None, "completed")
    costs = [each.result["stages"][0]["output"]["result"]["cost"] for each in (ending, undisturbed)]
    assert [cost.pop("retries") for cost in costs] == [3, 1], "lost attempts are told, and nothing else may differ"
    assert ending == undisturbed
    course = await lawful_course(run, diary)
    assert sorted(course.finished) == ["after", "fetched", "flaky", "held"]
    assert course.again == {"held": [1, 2], "flaky": [1, 2, 3]}
    assert (await lawful_course(twin, diary)).again == {"flaky": [1, 2]}
    measured(f"{len(course.work)} attempts of {len(course.scheduled)} calls")


async def test_graph_killed_while_it_compensates_undoes_each_stage_once_in_reverse(
    world: World, ground: Ground, diary: Diary, gates: Gates, measured: Measured
) -> None:
    """What was undone stays undone once, the call under way is repeated with its key, and the report is the same."""
    gates.close(graphs.HELD_UNDOING)
    run = await start(world, graphs.FAILING)
    worker = ground.worker()
    await until_held(run, diary, graphs.HELD_UNDOING)
    worker.kill()
    gates.close(())
    ground.worker()
    twin = await start(world, graphs.FAILING)

    ending, undisturbed = await endings(run, twin)
    assert ending.failure == ("compensated", "fails: stage 'proposal' failed: fail failed")
    assert compensated(ending) == ["d", "c", "b", "a"]
    assert ending == undisturbed
    course = await lawful_course(run, diary)
    assert course.finished == [*(f"do-{name}" for name in "abcd"), "fail", *graphs.UNDONE]
    assert course.again == {name: [1, 2] for name in graphs.HELD_UNDOING}
    measured(f"{len(graphs.UNDONE)} calls undid four stages, one of them was repeated")


def compensated(ending: Ending) -> list[str]:
    """The stages whose compensation succeeded, in their order."""
    return [each["for_stage_id"] for each in ending.result["compensations"] if each["status"] == "compensated"]


async def test_graph_killed_while_it_is_being_cancelled_still_undoes_everything_once(
    world: World, ground: Ground, diary: Diary, gates: Gates, measured: Measured
) -> None:
    """A run that was compensating for its cancel when the worker died, and one that was cancelled while none lived."""
    held = graphs.HELD_ENDLESS
    gates.close(held | graphs.HELD_UNDOING)
    cancelled_before, cancelled_after = await start(world, graphs.ENDLESS), await start(world, graphs.ENDLESS)
    worker = ground.worker()
    await until_held(cancelled_before, diary, ["scribe"])
    await until_held(cancelled_after, diary, ["scribe"])
    await cancelled_before.cancel()
    await until_held(cancelled_before, diary, ["scribe", *graphs.HELD_UNDOING])
    worker.kill()
    await cancelled_after.cancel()
    gates.close(held)
    ground.worker()
    twin = await start(world, graphs.ENDLESS)
    await until_held(twin, diary, ["scribe"])
    await twin.cancel()

    *disturbed, undisturbed = await endings(cancelled_before, cancelled_after, twin)
    assert undisturbed.failure == ("cancelled", "the run was cancelled")
    assert compensated(undisturbed) == ["d", "c", "b", "a"]
    done = [f"do-{name}" for name in "abcd"]
    for run, ending in zip((cancelled_before, cancelled_after), disturbed, strict=True):
        assert ending == undisturbed
        course = await lawful_course(run, diary)
        assert [name for name in course.finished if name != "scribe"] == [*done, *graphs.UNDONE]
    assert (await lawful_course(cancelled_before, diary)).again == {name: [1, 2] for name in graphs.HELD_UNDOING}
    # Its step is repeated only where the next worker comes so late that Temporal has missed the first attempt by then.
    assert set((await lawful_course(cancelled_after, diary)).again) <= {"scribe"}
    measured(f"{len(graphs.UNDONE)} calls undid four stages in each of two runs")


async def test_graph_killed_in_a_for_each_of_200_items_runs_each_item_once(
    world: World, ground: Ground, diary: Diary, gates: Gates, measured: Measured
) -> None:
    """Killed after 80 items, with a full window of 20 under way: those are repeated, and no other."""
    gates.close(graphs.HELD_ITEMS)
    run = await start(world, graphs.FOR_EACH)
    worker = ground.worker()
    before = await until_held(run, diary, ["scribe"] * graphs.WIDTH)
    worker.kill()
    gates.close(())
    ground.worker()
    twin = await start(world, graphs.FOR_EACH)

    ending, undisturbed = await endings(run, twin)
    assert (ending.failure, ending.result["status"]) == (None, "completed")
    assert ending.result["final_state"]["foreach.each.count"] == len(graphs.ITEMS)
    assert ending == undisturbed
    course = await lawful_course(run, diary)
    assert len(before.finishes) == 80
    assert len(course.finishes) == len(graphs.ITEMS) + 1, f"{len(course.finishes)} steps are in the history"
    held = {work.key for work in before.held}
    assert {work.key for work in course.work if work.attempt > 1} == held
    assert course.again == {"scribe": [1, 2] * graphs.WIDTH}
    measured(f"{len(course.work)} attempts of {len(course.scheduled)} steps")


async def test_graph_killed_while_it_asks_takes_the_answer_that_comes_after(
    world: World, ground: Ground, diary: Diary
) -> None:
    """The question is the same one as before the kill, and nothing before it is done again."""
    run = await start(world, graphs.asking(timeout_ms=600_000))
    worker = ground.worker()
    before = await question_of(run)
    worker.kill()
    ground.worker()
    assert await question_of(run) == before
    await answer(run, before, "ann")
    twin = await start(world, graphs.asking(timeout_ms=600_000))
    await answer(twin, await question_of(twin), "ann")

    ending, undisturbed = await endings(run, twin)
    assert ending.failure is None
    assert ending.result["final_state"]["verdict"] == {"go": "yes"}
    assert ending == undisturbed
    course = await lawful_course(run, diary)
    assert course.finished == ["prepare", "act on yes"]
    assert course.again == {}


async def test_graph_answered_while_no_worker_lives_takes_the_first_answer_when_one_does(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Answers wait for a worker. One counts, also where the deadline has passed meanwhile; the others are told why not.

    The command sends none where nobody would take it.
    """
    run, overdue = await start(world, graphs.asking()), await start(world, graphs.asking(timeout_ms=DEADLINE_MS))
    worker = ground.worker()
    questions = [await question_of(each) for each in (run, overdue)]
    worker.kill()
    assert await timers_fired(overdue) == 0, "the deadline came before the kill"
    sent = [asyncio.create_task(answer(run, questions[0], who)) for who in ("ann", "bob")]
    sent_overdue = asyncio.create_task(answer(overdue, questions[1], "ann"))
    command = await approving(ground, run)
    await wait_until("the deadline has passed", partial(timers_fired, overdue))
    assert command == (1, f"No worker of task queue {ground.task_queue!r} has answered for 5 s.\n")
    assert not any(each.done() for each in (*sent, sent_overdue)), "an answer did not wait for a worker"
    successor = ground.worker()

    told = await asyncio.gather(*sent, return_exceptions=True)
    [taken] = [each for each in told if isinstance(each, dict)]
    [refused] = [each for each in told if not isinstance(each, dict)]
    first = taken["answered_by"]
    assert isinstance(refused, WorkflowUpdateFailedError), f"the second answer ended with {refused!r}"
    assert isinstance(refused.cause, ApplicationError), f"the second answer ended with {refused.cause!r}"
    assert refused.cause.message == f"approval '1.ask' was answered already by {first!r}. The first answer counts."
    assert (await sent_overdue)["answered_by"] == "ann"
    measured(f"answered {time.time() - successor.started:.2f} s after the new worker began")
    twins = [await start(world, graphs.asking()) for _ in range(2)]
    for twin, who in zip(twins, (first, "ann"), strict=True):
        await answer(twin, await question_of(twin), who)
    disturbed = await endings(run, overdue)
    assert [ending.failure for ending in disturbed] == [None, None]
    assert disturbed == await endings(*twins)
    for each in (run, overdue):
        course = await lawful_course(each, diary)
        assert course.finished == ["prepare", "act on yes"]
        assert course.again == {}


async def test_graph_whose_deadline_passes_while_no_worker_lives_ends_as_the_deadline_says(
    world: World, ground: Ground, diary: Diary
) -> None:
    """The timer is the server's: the stage fails and is compensated, or goes on with the default answer."""
    strict = graphs.asking(timeout_ms=DEADLINE_MS)
    lenient = graphs.asking(timeout_ms=DEADLINE_MS, on_timeout={"go": "no"})
    runs = [await start(world, graph) for graph in (strict, lenient)]
    worker = ground.worker()
    for run in runs:
        await question_of(run)
    worker.kill()
    assert [await timers_fired(run) for run in runs] == [0, 0], "a deadline came before the kill"
    for run in runs:
        await wait_until("the deadline has passed", partial(timers_fired, run))
    ground.worker()
    twins = [await start(world, graph) for graph in (strict, lenient)]

    failed, gone_on, *undisturbed = await endings(*runs, *twins)
    assert failed.failure == ("compensated", f"ask: approval 'ask' was not answered within {DEADLINE_MS}ms")
    assert compensated(failed) == ["prepare"]
    assert gone_on.failure is None
    assert gone_on.result["final_state"]["verdict"] == {"go": "no"}
    assert [failed, gone_on] == undisturbed
    for run, finished in zip(runs, (["prepare", "clear up"], ["prepare", "act on no"]), strict=True):
        course = await lawful_course(run, diary)
        assert course.finished == finished
        assert course.again == {}


async def question_of(run: Run) -> dict[str, Any]:
    """The question that a run asks, once it does."""

    async def asked() -> list[dict[str, Any]]:
        questions: list[dict[str, Any]] = await run.query(wire.APPROVALS_QUERY)
        return questions

    [question] = await wait_until("the run asks", asked)
    return question


async def answer(run: Run, question: dict[str, Any], who: str) -> dict[str, Any]:
    """What a run took down of somebody's answer, which is yes; waits for a worker."""
    given = {"id": question["id"], "response": {"go": "yes"}, "answered_by": who}
    taken: dict[str, Any] = await run.execute_update(wire.RESOLVE_APPROVAL_UPDATE, given)
    return taken


async def approving(ground: Ground, run: Run) -> tuple[int, str]:
    """Exit code and text of `perdure approve` for a run."""
    words = ["approve", run.id, "--field", "go=no", "--address", ground.address]
    log = ground.folder / "approve.log"
    process = Process.start([sys.executable, str(ROOT / "starter.py"), *words], {}, folder=ground.folder, log=log)
    ground.processes.append(process)
    return await process.ended(), process.said()


async def timers_fired(run: Run) -> int:
    """How many deadlines of a run have passed."""
    fired = EventType.EVENT_TYPE_TIMER_FIRED
    return len([event async for event in run.fetch_history_events() if event.event_type == fired])
