"""Workers whose agents are models are killed with SIGKILL at random, and what was paid is counted by the provider.

The provider is a process of its own and outlives them: that nothing is asked twice is counted outside the product.
PAGES and AGENTS are the sizes, for the long version; SEED=n repeats the choice of moments, as far as the machine
allows.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle

from activities.executors.model.asking import COUNTED
from tests.crash.agents import Gates
from tests.crash.checks import lawful_finishes, report_of, sampled_budget
from tests.crash.diary import Diary, Work
from tests.crash.graph_runs import ending_of
from tests.crash.processes import Ground, Process
from tests.definitions import graph, pattern, stage
from tests.provider import ProviderProcess, provider_process
from tests.support import World, wait_until
from workflows import AgentStepSpec, wire

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 1_000_000)
PAGES = int(os.environ.get("PAGES", "200"))
AGENTS = int(os.environ.get("AGENTS", "24"))
KILLS = 2
TOKENS_EACH = 13_000
# Two thirds of what an agent needs for five pages: some are stopped midway, and others end with what those give back.

HISTORY_BYTES = 100_000
LONG_SECONDS = 240.0
# A loop of two hundred calls takes a quarter of a minute on a quiet machine.

Measured = Callable[[str], None]
Run = WorkflowHandle[Any, Any]

READING = f"""
from tests.provider import call_tool

script = call_tool("page", {PAGES}, {{"name": "{{turn}}"}})
"""

UNEVEN = f"""
import json
import random
from dataclasses import replace

from tests.provider import Tokens, call_tool, digest

reading = call_tool("page", 5, {{"name": "{{turn}}"}})


def script(request, number):
    chance = random.Random(f"{SEED} {{digest(request['messages'])}}")
    read = len(json.dumps([request["messages"], request["tools"]])) / 4 * chance.uniform(0.8, 1.4)
    tokens = Tokens(int(read), chance.randint(20, 400))
    return replace(reading(request, number), tokens=tokens, delay_seconds=chance.uniform(0.05, 0.6))
"""

ASKING = """
from tests.provider import Answer, ToolCall, digest, turns_taken


def both(name, arguments):
    return Answer("On it.", tuple(ToolCall(name, each) for each in arguments))


def script(request, number):
    turn, tools = turns_taken(request), [tool["function"]["name"] for tool in request["tools"]]
    if turn == 0:
        return both("delegate", [{"specialist": "helper", "subtask": subtask} for subtask in ("dig", "fill")])
    if turn == 1 and "stamp" in tools:
        return both("stamp", [{"name": "granted"}, {"name": "refused"}])
    return Answer(f"heard {digest(request['messages'])}")
"""
"""The last answer tells all that the model was told."""


def serving(ground: Ground, provider: ProviderProcess, **environ: str) -> Process:
    """A worker whose models are the provider's, under a label of its own."""
    label = f"worker-{len(ground.processes)}"
    return ground.worker(OPENAI_BASE_URL=provider.url(label), OPENAI_API_KEY="sk-nobody-may-see-this", **environ)


until = partial(wait_until, seconds=LONG_SECONDS)
"""The first step of a worker loads the model libraries, and a busy machine takes its time for that."""


async def until_asked(provider: ProviderProcess, more: int) -> None:
    """Return when the provider was asked so many times more."""
    goal = len(provider.ledger.calls()) + more

    async def asked() -> bool:
        return len(provider.ledger.calls()) >= goal

    await until(f"{goal} calls of the model (seed {SEED})", asked)


@dataclass(frozen=True)
class Recorded:
    """What a history holds."""

    activities: dict[str, int]
    """Events of activities, by kind."""
    size: int
    """Bytes of all events."""


async def recorded(run: Run) -> Recorded:
    kinds: Counter[str] = Counter()
    size = 0
    async for event in run.fetch_history_events():
        size += event.ByteSize()
        kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
        if kind.startswith("ACTIVITY_TASK_"):
            kinds[kind.removeprefix("ACTIVITY_TASK_").lower()] += 1
    return Recorded(dict(kinds), size)


@pytest.mark.timeout(2 * LONG_SECONDS)
async def test_model_killed_twice_in_a_long_loop_pays_for_each_turn_once(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Three activity events however many calls and kills; repeated is at most what was in flight at each kill."""
    chance = random.Random(SEED)
    async with provider_process(READING, ground.folder) as provider:
        run = await world.start("Phased", [[AgentStepSpec(task_id="read", agent="reader", prompt="Read the book.")]])
        for _ in range(KILLS):
            worker = serving(ground, provider)
            await until_asked(provider, chance.randint(PAGES // 10, PAGES // 3))
            worker.kill()
        serving(ground, provider)
        [outcome] = (await report_of(run, LONG_SECONDS)).outcomes
        ledger, calls = provider.ledger, provider.ledger.calls()
        again, answered_again = sum(ledger.asked_twice().values()), sum(ledger.answered_twice().values())
        again, answered_again = again - len(ledger.asked_twice()), answered_again - len(ledger.answered_twice())

    history = await recorded(run)
    keys: dict[str, list[str]] = {}
    for work in diary.work():
        keys.setdefault(work.task_id, []).append(work.key)
    repeated = sum(len(each) - 1 for each in keys.values())
    measured(
        f"seed {SEED}: {PAGES} tool calls, {KILLS} kills: {len(calls)} requests, {again} asked again, {repeated} tools "
        f"called again; history {history.size:,} bytes; {outcome.usage.total_tokens:,} tokens told, "
        f"{sum(call.billed for call in calls):,} billed"
    )
    assert (outcome.output, outcome.success, outcome.attempts) == ("done", True, KILLS + 1)
    assert history.activities == {"scheduled": 1, "started": 1, "completed": 1}
    assert history.size < HISTORY_BYTES
    assert answered_again <= again <= KILLS
    assert len([call for call in calls if call.billed]) == PAGES + 1 + again
    assert sorted(keys) == sorted(f"page {number}" for number in range(1, PAGES + 1))
    assert [name for name, each in keys.items() if len(set(each)) > 1] == []
    assert repeated <= KILLS
    lost = sum(call.billed for call in calls) - outcome.usage.total_tokens
    assert 0 <= lost <= KILLS * max(call.billed for call in calls)
    assert outcome.usage.tool_calls == PAGES


@pytest.mark.timeout(2 * LONG_SECONDS)
async def test_model_agents_killed_under_a_budget_are_charged_what_was_billed(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """The ledger is what was billed, but for calls in flight at a kill; the limit holds as well as the estimates do."""
    chance, limit = random.Random(SEED), TOKENS_EACH * AGENTS
    specs = [AgentStepSpec(task_id=f"s{n}", agent="reader", prompt=f"Read book {n}.") for n in range(AGENTS)]
    async with provider_process(UNEVEN, ground.folder) as provider:
        run = await world.start("Phased", [specs], max_concurrency=AGENTS, budget_tokens=limit)
        killed: list[int] = []
        async with sampled_budget(run) as samples:
            for _ in range(KILLS):
                killed.append(len(ground.processes))
                worker = serving(ground, provider, PERDURE_LOG_LEVEL="debug")
                await until_asked(provider, chance.randint(AGENTS // 2, 2 * AGENTS))
                worker.kill()
            serving(ground, provider, PERDURE_LOG_LEVEL="debug")
            report = await report_of(run, LONG_SECONDS)
        calls = [call for call in provider.ledger.calls() if call.billed]
        again = sum(times - 1 for times in provider.ledger.asked_twice().values())

    errors = [error for process in ground.processes for error in estimate_errors(process)]
    highest = max(sample.consumed_tokens + sample.granted_tokens for sample in samples)
    used = sum(outcome.usage.total_tokens for outcome in report.outcomes)
    billed = sum(call.billed for call in calls)
    lost = len(calls) - sum(outcome.usage.requests for outcome in report.outcomes)
    statuses = Counter(outcome.status for outcome in report.outcomes)
    measured(
        f"seed {SEED}: {AGENTS} agents, {dict(statuses)}: {used:,} of {limit:,} tokens used, {billed:,} billed; "
        f"{lost} of {len(calls)} calls were lost with {KILLS} workers, {again} asked again; at most {highest:,} "
        f"consumed or granted in {len(samples)} samples; estimate minus counted: {min(errors):,} to {max(errors):,}, "
        f"{sum(errors) / len(errors):,.1f} on average"
    )
    assert set(statuses) == {"ok", "budget_exceeded"}, "the limit stops some of the agents"
    assert (report.budget.consumed_tokens, report.budget.granted_tokens) == (used, 0)
    # Of a worker that was killed, each agent's last call may be lost: billed, and never heard of.
    assert 0 <= lost <= KILLS * AGENTS
    dearest = sorted((call.billed for call in calls if call.label in {f"worker-{n}" for n in killed}), reverse=True)
    assert 0 <= billed - used <= sum(dearest[:lost])
    assert again <= KILLS * AGENTS
    too_low = sum(-error for error in errors if error < 0)
    assert used <= limit + too_low, f"{used:,} tokens, and the estimates were {too_low:,} too low"
    assert highest <= limit + too_low
    await lawful_finishes(diary, run)


def estimate_errors(process: Process) -> list[int]:
    """Of each request of a worker: the tokens that its prompt was taken for, less those that were counted."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    return [line["estimated_tokens"] - line["input_tokens"] for line in lines if line.get("event") == COUNTED]


@pytest.mark.timeout(2 * LONG_SECONDS)
async def test_model_killed_while_it_waits_for_others_goes_on_with_their_answers(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Killed while a specialist runs, while a person is asked, and while the approved tool runs: nothing more is done
    than what was in flight, and the model hears what it would have heard. The delegator pattern does alike.
    """
    gates = Gates(ground.folder)
    boss = [[AgentStepSpec(task_id="run it", agent="boss", prompt="Run it.")]]
    delegating = graph(stage("only", pattern("delegator", "chief", "helper")))
    gates.close({"dig"})
    async with provider_process(ASKING, ground.folder) as provider:
        run, in_graph = await world.start("Phased", boss), await world.start(wire.STAGE_GRAPH_WORKFLOW, delegating)
        worker = serving(ground, provider)
        digging = await until("both specialists dig", partial(held, diary, "helper", begun=4, left=2))
        worker.kill()
        gates.close({"stamp granted"})
        worker = serving(ground, provider)
        questions = await until("the run asks", partial(asked, run))
        worker.kill()
        worker = serving(ground, provider)
        assert await until("it asks again", partial(asked, run)) == questions
        await decide(run, questions)
        [stamping] = await until("the tool runs", partial(held, diary, "stamp granted", begun=1, left=1))
        worker.kill()
        gates.close(())
        serving(ground, provider)
        report, ending = await report_of(run), await ending_of(in_graph)
        asked_of_it = [call for call in provider.ledger.calls() if call.billed]
        twin, twin_in_graph = (
            await world.start("Phased", boss),
            await world.start(wire.STAGE_GRAPH_WORKFLOW, delegating),
        )
        await decide(twin, await until("the twin asks", partial(asked, twin)))
        undisturbed = await report_of(twin)

        assert report.outcomes[0].output == undisturbed.outcomes[0].output
        assert report.outcomes[0].usage == undisturbed.outcomes[0].usage
        assert ending.failure is None
        assert ending == await ending_of(twin_in_graph)
        assert len(asked_of_it) == 3 + 2, "no request was in flight at a kill, so none was sent twice"
    await lawful_finishes(diary, run)
    lost = {work.key for work in digging} | {stamping.key}
    assert {work.key for work in diary.work() if work.attempt > 1} == lost
    assert [work.task_id for work in diary.work() if work.task_id == "stamp refused"] == []
    assert sorted(work.attempt for work in diary.work() if work.key == stamping.key) == [1, 2]
    measured(f"3 kills: {len(lost)} of {len({work.key for work in diary.work()})} pieces of work were repeated")


async def held(diary: Diary, name: str, *, begun: int, left: int) -> list[Work]:
    """What of this name's work is under way, once so much has begun and so much is left; empty before."""
    work = [each for each in diary.work() if name in each.task_id]
    flying = [each for each in work if each.finished is None]
    return flying if (len(work), len(flying)) == (begun, left) else []


async def asked(run: Run) -> list[dict[str, Any]]:
    """What a run asks a person, once it asks both."""
    questions: list[dict[str, Any]] = await run.query(wire.APPROVALS_QUERY)
    return questions if len(questions) == 2 else []


async def decide(run: Run, questions: list[dict[str, Any]]) -> None:
    """Approve the first call, deny the second."""
    for question, response in zip(
        questions, ({"decision": "approve"}, {"decision": "deny", "message": "Not that one."}), strict=True
    ):
        await run.execute_update(wire.RESOLVE_APPROVAL_UPDATE, {"id": question["id"], "response": response})
