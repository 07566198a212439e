"""Record the histories that the replay ring replays: `python -m tests.replay.record [NAME…]`.

A history that exists is never written again: a change that it no longer replays with wants `workflow.patched`, or a
new type name, not a new recording. Add a scenario, run this, commit the file.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.testing import WorkflowEnvironment

from runtime.connect import connect
from runtime.local import find_temporal, local_server
from runtime.recording import recorded
from runtime.settings import Settings
from tests import programs, slice_programs
from tests.programs import step, steps
from tests.replay import graphs, pattern_scenarios
from tests.support import AGENTS, World, event_types, served, wait_until

HISTORIES = Path(__file__).with_name("histories")
LONG_HISTORY = 40
# Events after which a server suggests to continue as new, where a scenario is about that. By itself it does at 4,096.

WORKFLOWS: tuple[type, ...] = (
    programs.FanOut,
    programs.Sequence,
    programs.EveryVerb,
    programs.Piped,
    programs.Looped,
    programs.Undoing,
    programs.Limited,
    programs.Stubborn,
    programs.Rolling,
    *slice_programs.WORKFLOWS,
    *pattern_scenarios.WORKFLOWS,
)

Handle = WorkflowHandle[Any, Any]
Interference = Callable[[Handle], Awaitable[None]]


async def cancel_in_flight(handle: Handle) -> None:
    """Cancel when steps are in flight."""

    async def begun() -> bool:
        return "step_started" in await event_types(handle)

    await wait_until("a step has begun", begun)
    await handle.cancel()


async def cancel_slices(handle: Handle) -> None:
    """Cancel when children carry steps."""

    async def carried() -> bool:
        return (await event_types(handle)).count("slice_started") >= 4

    await wait_until("four slices have started", carried)
    await handle.cancel()


async def raise_budget(handle: Handle) -> None:
    """Raise the budget when a step waits for it, and report usage from outside."""

    async def waits() -> bool:
        return "step_waiting" in await event_types(handle)

    await wait_until("a step waits", waits)
    await handle.signal("record_usage", {"id": "one", "input_tokens": 5})
    await handle.signal("set_budget", {"limit_tokens": 50_000})


async def answer(handle: Handle) -> None:
    """Answer the first approval, after an answer that is refused."""

    async def asked() -> list[dict[str, Any]]:
        waiting: list[dict[str, Any]] = await handle.query("approvals")
        return waiting

    [request] = await wait_until("it asks", asked)
    with suppress(WorkflowUpdateFailedError):
        await handle.execute_update("resolve_approval", {"id": "another", "response": 1})
    await handle.execute_update(
        "resolve_approval", {"id": request["id"], "response": {"go": "yes"}, "answered_by": "me"}
    )


async def decide(handle: Handle) -> None:
    """Decide about the first tool call that an agent asks for."""

    async def asked() -> list[dict[str, Any]]:
        waiting: list[dict[str, Any]] = await handle.query("approvals")
        return waiting

    request, *_ = await wait_until("it asks", asked)
    await handle.execute_update("resolve_approval", {"id": request["id"], "response": {"decision": "approve"}})


async def claim_and_leave(handle: Handle) -> None:
    """Ask a store twice, and stop it."""
    for key in ("one", "one", "two"):
        await handle.execute_update("claim", {"key": key, "store": "s", "fingerprints": ["a", "b"]})
    await handle.cancel()


@dataclass(frozen=True)
class Scenario:
    """One run whose history is kept."""

    workflow: str
    argument: Any
    options: dict[str, Any] = field(default_factory=dict)
    interfere: Interference | None = None
    is_continued: bool = False
    """Whether its run is told early that its history is long, and goes on in another one."""
    first: bool = False
    """Whether what is kept is the first history of several; else it is the last."""


PHASES = [
    {"name": "first", "steps": [step("a"), step("b", "broken")]},
    {"name": "second", "steps": [step("c", "flaky"), step("d", "nobody")]},
]

ASKING = step(
    "lead",
    "asking",
    metadata={
        "delegations": [
            {"call_id": "1", "specialist": "metered", "subtask": "count"},
            {"call_id": "2", "specialist": "broken", "subtask": "fail"},
        ],
        "approvals": [
            {"call_id": "3", "tool": "send", "arguments": {"to": "all"}},
            {"call_id": "4", "tool": "send", "arguments": {"to": "bob"}, "timeout_seconds": 0.3},
        ],
    },
)

SLICE = {
    "type": "steps",
    "prefix": "3.0",
    "items": [
        {"spec": {"task_id": f"s{number}", "agent": agent, "prompt": "p"}}
        for number, agent in enumerate(["metered", "echo", "broken", "metered"])
    ],
}
SLICE_OF_CHAINS = {
    "type": "chains",
    "stages": [
        {"function": f"tests.slice_programs:{stage}", "prefix": f"c0.{number}"}
        for number, stage in enumerate(["first_stage", "second_stage"])
    ],
    "items": [{"item": item} for item in ("a", "nothing", "crash", "late crash", "broken")],
}

SLICE_OF_ITEMS = {
    "type": "items",
    "place": "3",
    "first": 10,
    "body": graphs.ITEM_BODY,
    "around": {"graph": "g", "stage": "each", "goal": "be thorough", "state": {"about": "the house"}},
    "items": [{"index": index, "item": item} for index, item in enumerate(["a", 7, None, {"b": [1]}, "again"])],
}

SCENARIOS = {
    "agent-suspended": Scenario("FanOut", [ASKING, *steps(2, "brief")], {"max_concurrency": 1}, decide),
    "agent-suspended-cancelled": Scenario(
        "FanOut",
        [
            step(
                "lead", "asking", metadata={"delegations": [{"call_id": "1", "specialist": "slow", "subtask": "think"}]}
            )
        ],
        interfere=cancel_in_flight,
    ),
    "steps": Scenario("Steps", PHASES),
    "steps-rejected": Scenario("Steps", {"name": "no list"}),
    "steps-cancelled": Scenario("Steps", [{"name": "slow", "steps": steps(9, "slow")}], interfere=cancel_in_flight),
    "steps-exhausted": Scenario("Steps", PHASES, {"budget_tokens": 0}),
    "parallel-window": Scenario("FanOut", steps(12, "brief"), {"max_concurrency": 5}),
    "parallel-topped-up": Scenario("FanOut", steps(6, "metered"), {"budget_tokens": 2_500}),
    "parallel-cancelled": Scenario("FanOut", steps(10, "slow"), interfere=cancel_in_flight),
    "agent-failures": Scenario(
        "Sequence", [step("a", "broken"), step("b", "flaky"), step("c", "crashing"), step("d", "echo", "")]
    ),
    "agent-timed-out": Scenario("Sequence", [step("late", "slow", timeout_seconds=1), step("after")]),
    "agent-max-tokens": Scenario("Sequence", [step("a", "metered", max_tokens=250)]),
    "budget-denied": Scenario("Sequence", steps(3, "greedy"), {"budget_tokens": 1_000}),
    "budget-raised": Scenario(
        "Sequence", steps(3, "greedy"), {"budget_tokens": 1_000, "on_exhausted": "wait"}, raise_budget
    ),
    "every-verb": Scenario("EveryVerb", None),
    "pipeline": Scenario("Piped", ["a", "nothing", "stop", "failure", "crash", "late crash"]),
    "loop": Scenario("Looped", {"first": 2, "cap": 4, "stop_after": 3}),
    "saga-failed": Scenario("Undoing", {"count": 2, "agent": "broken", "undo_second": "broken"}),
    "saga-cancelled": Scenario("Undoing", {"count": 3, "agent": "slow"}, interfere=cancel_in_flight),
    "saga-done": Scenario("Undoing", {"count": 2, "agent": "echo"}),
    "deadline": Scenario("Limited", 0.5),
    "cancel-caught": Scenario("Stubborn", None, interfere=cancel_in_flight),
    "continued-as-new": Scenario("Rolling", {"done": 0, "rounds": 3, "bytes": 20, "runs": 0}),
}


GRAPHS = {
    "graph-every-stage": Scenario("StageGraph", graphs.EVERY_STAGE, interfere=answer),
    "graph-compensated": Scenario("StageGraph", graphs.COMPENSATED),
    "graph-routed": Scenario("StageGraph", graphs.ROUTED),
    "graph-timed-out": Scenario("StageGraph", graphs.TIMED_OUT),
    "graph-loop-guard": Scenario("StageGraph", graphs.GUARDED),
    "graph-cancelled": Scenario("StageGraph", graphs.SLOW, interfere=cancel_in_flight),
    "graph-unanswered": Scenario("StageGraph", graphs.UNANSWERED),
    "graph-rejected": Scenario("StageGraph", {"id": "x"}),
    "chain": Scenario(
        "Chain", {"graphs": [graphs.ROUTED, graphs.INNER], "initial_state": {"items": "x", "given": "y"}}
    ),
    "graph-continued": Scenario("StageGraph", graphs.LONG, is_continued=True, first=True),
    "graph-taken-up": Scenario("StageGraph", graphs.LONG, is_continued=True),
    "seen-store": Scenario("SeenStore", None, interfere=claim_and_leave),
}
SLICES = {
    "sliced": Scenario("Counted", {"count": 1_001, "agent": "echo"}, {"max_concurrency": 100, "budget_tokens": 10_000}),
    "sliced-larger": Scenario("Counted", {"count": 1_801, "agent": "echo"}, {"max_concurrency": 100}),
    "sliced-exhausted": Scenario(
        "Counted",
        {"count": 1_001, "agent": "echo", "greedy_from": 980},
        {"max_concurrency": 100, "budget_tokens": 5_000},
    ),
    "sliced-cancelled": Scenario("Counted", {"count": 1_001, "agent": "slow"}, interfere=cancel_slices),
    "sliced-for-each": Scenario(
        "StageGraph", graphs.MANY_ITEMS, {"max_concurrency": 100, "budget_tokens": graphs.NEARLY_ENOUGH}
    ),
    "sliced-for-each-cancelled": Scenario("StageGraph", graphs.MANY_SLOW_ITEMS, interfere=cancel_slices),
    "sliced-pipeline": Scenario("SlicedPipe", {"items": 501}, {"max_concurrency": 100}),
    "slice": Scenario("Slice", {"work": SLICE, "phase": {"name": "many", "index": 3}}, {"budget_tokens": 800}),
    "slice-of-chains": Scenario("Slice", {"work": SLICE_OF_CHAINS}),
    "slice-of-items": Scenario(
        "Slice",
        {
            "work": SLICE_OF_ITEMS,
            "phase": {"name": "each", "index": 3, "is_stage": True},
            "at_once": 2,
            "next_phase": 4,
        },
        {"budget_tokens": 100_000},
    ),
}
PATTERNS = {name: Scenario(*each) for name, each in pattern_scenarios.SCENARIOS.items()}
SCENARIOS |= GRAPHS | SLICES | PATTERNS


async def play(world: World, scenario: Scenario) -> Handle:
    """Run a scenario to its end, whatever that is."""
    handle = await world.start(scenario.workflow, scenario.argument, **scenario.options)
    if scenario.interfere:
        await scenario.interfere(handle)
    with suppress(WorkflowFailureError):  # some scenarios end so
        await handle.result()
    return handle


async def record(names: list[str]) -> None:
    """Record the named scenarios that have no history yet; all of them, where none is named."""
    missing = [name for name in names or SCENARIOS if not (HISTORIES / f"{name}.json").exists()]
    if not missing:
        print("Every scenario has its history.")
        return
    HISTORIES.mkdir(exist_ok=True)
    for is_continued in (False, True):
        if chosen := [name for name in missing if SCENARIOS[name].is_continued == is_continued]:
            async with _server(is_continued) as address:
                await _record(chosen, await connect(Settings(), address=address))


@asynccontextmanager
async def _server(suggests_early: bool) -> AsyncIterator[str]:
    """The address of a server; one that suggests early to continue as new writes that into the history."""
    if suggests_early:
        suggestion = ["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={LONG_HISTORY}"]
        async with await WorkflowEnvironment.start_local(
            dev_server_existing_path=find_temporal(), dev_server_extra_args=suggestion
        ) as environment:
            yield environment.client.service_client.config.target_host
        return
    with tempfile.TemporaryDirectory() as folder:
        async with local_server(Path(folder) / "server") as server:
            yield server.address


async def _record(names: list[str], client: Client) -> None:
    agents = AGENTS.read_text(encoding="utf-8") + pattern_scenarios.AGENTS
    with tempfile.TemporaryDirectory() as blobs:
        async with served(client, *WORKFLOWS, agents=agents, blobs=Path(blobs)) as world:
            for name in names:
                scenario = SCENARIOS[name]
                handle = await play(world, scenario)
                if scenario.first:
                    handle = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
                history = recorded(await handle.fetch_history())
                (HISTORIES / f"{name}.json").write_text(history, encoding="utf-8")
                print(f"{name}: {len(history):,} bytes")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
