"""What agents that are models cost their run: a long loop, many at once with long transcripts, many under a limit.

The loop runs by hand too, with an activity for each call of the model and of the tool. The provider is scripted, a
process of its own, and bills what it is told to. Worker, agents and client share one process, whose memory is told.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from structlog.testing import capture_logs
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.blobs import FolderStore
from activities.executors.model.asking import COUNTED
from activities.heartbeat import DETAILS_BYTES
from activities.registry import ModelAgent, Registry
from activities.tools.registry import Tool, Toolbox
from benchmarks.by_hand import LoopByHand
from benchmarks.by_verbs import FanOut
from benchmarks.measure import ACTIVITY_EVENTS, largest_memory_mib
from benchmarks.results import NO_SIDE, NO_TARGET, Result
from runtime.settings import Settings
from tests.provider import Call, provider_process
from worker import build_worker
from workflows import AgentStepSpec, StepOutcome, wire

MANY = 100
LOOK_SECONDS = 0.25
# How often heartbeat details are looked at; they are sent every half second at most.
HISTORY_BYTES, STEP_HISTORY_BYTES = 100_000, 2_000
# Of one run with one agent, however long it talks; and of each step where there are many: its call, its outcome, and
# its part of the workflow tasks.

SCRIPT = """
import json
import random
from dataclasses import replace

from tests.provider import Answer, Tokens, ToolCall, digest, last_text, turns_taken


def script(request, number):
    plan, turn = json.loads(last_text(request)), turns_taken(request)
    call = ToolCall("page", {"number": turn, "characters": plan["characters"]})
    answer = Answer(calls=(call,)) if turn < plan["calls"] else Answer("done")
    if not plan["is_uneven"]:
        return answer
    chance = random.Random(digest(request["messages"]))
    read = len(json.dumps([request["messages"], request["tools"]])) / 4 * chance.uniform(0.8, 1.4)
    return replace(answer, tokens=Tokens(int(read), chance.randint(20, 400)), delay_seconds=chance.uniform(0, 0.5))
"""


@dataclass(frozen=True)
class Case:
    """Agents that call a tool so many times each."""

    name: str
    agents: int
    calls: int
    characters: int
    """Of each result."""
    budget_tokens: int | None = None

    @property
    def specs(self) -> list[AgentStepSpec]:
        """A step for each agent, each with a prompt of its own."""
        return [
            AgentStepSpec(
                task_id=f"agent-{number}",
                agent="reader",
                prompt=json.dumps(
                    {
                        "agent": number,
                        "calls": self.calls,
                        "characters": self.characters,
                        "is_uneven": self.budget_tokens is not None,
                    }
                ),
            )
            for number in range(self.agents)
        ]

    @property
    def pieces(self) -> int:
        """What all of them keep: each answer and each result once."""
        return self.agents * (2 * self.calls + 1)


LOOP = Case("one agent, 100 tool calls of 4 KB", agents=1, calls=100, characters=4_096)
# By hand a loop of some 150 has a history that Temporal ends.
LONG = Case(f"{MANY} agents at once, transcripts of 400 KB", agents=MANY, calls=10, characters=40_960)
LIMITED = Case(f"{MANY} agents under a limit", agents=MANY, calls=5, characters=4_096, budget_tokens=13_000 * MANY)


@dataclass(frozen=True)
class Recorded:
    """What a run left in its history, and how long it took."""

    wall_seconds: float
    activity_events: int
    events: int
    history_bytes: int
    lost_attempts: int
    """Attempts that Temporal gave up: on a machine with much other work a worker's beats may come too late."""


@dataclass(frozen=True)
class Spent(Recorded):
    """What a case took."""

    outcomes: Sequence[StepOutcome]
    budget: dict[str, Any]
    largest_details: int
    """Bytes of one activity's heartbeat details."""
    all_details: int
    """Bytes of those of all activities that were pending at once."""
    pieces: int
    """Of transcripts, in the blob store."""
    piece_bytes: int

    @property
    def requests(self) -> int:
        """Answers that the outcomes tell of."""
        return sum(outcome.usage.requests for outcome in self.outcomes)


def page(number: int, characters: int) -> str:
    """A page of a book."""
    return f"Page {number}. ".ljust(characters, ".")


async def measure(client: Client, folder: Path, tell: Callable[[str], None]) -> list[Result]:
    """Run the three cases, each in a folder and on a task queue of its own; the first by hand too."""
    async with provider_process(SCRIPT, folder) as provider:
        spent = await _spent(client, LOOP, provider.url(), folder / uuid.uuid4().hex)
        by_hand = await _spent_by_hand(client, LOOP, provider.url())
        tell(f"{LOOP.name}: {spent.wall_seconds:.1f} s, {by_hand.wall_seconds:.1f} s by hand")
        results = _of_loop(LOOP, spent, by_hand)
        spent = await _spent(client, LONG, provider.url(), folder / uuid.uuid4().hex)
        tell(f"{LONG.name}: {spent.wall_seconds:.1f} s, {spent.pieces:,} pieces of {spent.piece_bytes:,} bytes")
        results += _of_long(LONG, spent)
        before = len(provider.ledger.calls())
        with capture_logs() as logs:
            spent = await _spent(client, LIMITED, provider.url(), folder / uuid.uuid4().hex)
        errors = [line["estimated_tokens"] - line["input_tokens"] for line in logs if line["event"] == COUNTED]
        tell(f"{LIMITED.name}: {spent.wall_seconds:.1f} s, {len(errors):,} requests")
        return results + _of_limited(spent, errors, provider.ledger.calls()[before:])


async def _spent(client: Client, case: Case, url: str, blobs: Path) -> Spent:
    begun = time.perf_counter()
    async with _serving(client, case, url, blobs) as task_queue:
        handle = await client.start_workflow(
            FanOut.__name__,
            args=[case.specs, case.agents],
            id=f"agents-{uuid.uuid4()}",
            task_queue=task_queue,
            memo={wire.OPTIONS_MEMO: _options(case)},
            result_type=list[StepOutcome],
        )
        watching = asyncio.create_task(_details(handle))
        outcomes = await handle.result()
        wall_seconds = time.perf_counter() - begun
        largest, together = await watching
        budget = await handle.query(wire.BUDGET_QUERY)
    recorded = await _recorded(handle, wall_seconds)
    kept = [piece.size async for piece in FolderStore(blobs).pieces("steps")]
    return Spent(
        **vars(recorded),
        outcomes=outcomes,
        budget=budget,
        largest_details=largest,
        all_details=together,
        pieces=len(kept),
        piece_bytes=sum(kept),
    )


async def _recorded(handle: WorkflowHandle[Any, Any], wall_seconds: float) -> Recorded:
    history = await handle.fetch_history()
    execution = (await handle.describe()).raw_description.workflow_execution_info
    return Recorded(
        wall_seconds=wall_seconds,
        activity_events=sum(event.event_type in ACTIVITY_EVENTS for event in history.events),
        events=len(history.events),
        history_bytes=execution.history_size_bytes,
        lost_attempts=sum(
            event.activity_task_started_event_attributes.attempt - 1
            for event in history.events
            if event.HasField("activity_task_started_event_attributes")
        ),
    )


async def _spent_by_hand(client: Client, case: Case, url: str) -> Recorded:
    """The same conversation, an activity for each call."""
    task_queue = f"benchmark-{uuid.uuid4()}"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as service:
        activities = [_asking(service), call_page]
        async with Worker(client, task_queue=task_queue, workflows=[LoopByHand], activities=activities):
            begun = time.perf_counter()
            handle = await client.start_workflow(
                LoopByHand.run, case.specs[0].prompt, id=f"agents-{uuid.uuid4()}", task_queue=task_queue
            )
            await handle.result()
            return await _recorded(handle, time.perf_counter() - begun)


def _asking(service: AsyncOpenAI) -> Callable[..., Any]:
    tool = {"name": page.__name__, "description": str(page.__doc__), "parameters": Tool.of(page).parameters}

    @activity.defn
    async def ask_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
        answer = await service.chat.completions.create(
            model="scripted",
            messages=messages,  # type: ignore[arg-type]  # plain dicts
            tools=[{"type": "function", "function": tool}],  # type: ignore[typeddict-item]
        )
        return answer.choices[0].message.model_dump(exclude_none=True)

    return ask_model


@activity.defn
async def call_page(arguments: str) -> str:
    """The tool, with its arguments as the model wrote them."""
    return page(**json.loads(arguments))


def _options(case: Case) -> dict[str, int]:
    limit = {} if case.budget_tokens is None else {"budget_tokens": case.budget_tokens}
    return {"max_concurrency": case.agents, **limit}


@asynccontextmanager
async def _serving(client: Client, case: Case, url: str, blobs: Path) -> AsyncIterator[str]:
    """A worker of the case's agents; its task queue."""
    registry = Registry(
        [ModelAgent(name="reader", model=("scripted",), base_url=url, tools=(page.__name__,), max_steps=case.calls)],
        tools=Toolbox([Tool.of(page)]),
    )
    task_queue = f"benchmark-{uuid.uuid4()}"
    settings = Settings(task_queue=task_queue, blobs=str(blobs), max_concurrent_steps=case.agents, drain_seconds=1)
    async with build_worker(client, settings, registry=registry, workflows=[FanOut]):
        yield task_queue


async def _details(handle: WorkflowHandle[Any, Any]) -> tuple[int, int]:
    """The largest heartbeat details, and the most that were there at once, until nothing is pending any more."""
    largest = together = 0
    while True:
        description = (await handle.describe()).raw_description
        sizes = [pending.heartbeat_details.ByteSize() for pending in description.pending_activities]
        largest, together = max([largest, *sizes]), max(together, sum(sizes))
        if description.workflow_execution_info.HasField("close_time"):
            return largest, together
        await asyncio.sleep(LOOK_SECONDS)


def _of_loop(case: Case, spent: Spent, by_hand: Recorded) -> list[Result]:
    events, size = spent.activity_events, spent.history_bytes
    return [
        _beside(case, "activity events", "exactly 3", events, by_hand.activity_events, is_met=events == 3),
        _beside(case, "events", NO_TARGET, spent.events, by_hand.events),
        _beside(
            case,
            "history bytes",
            f"<= {HISTORY_BYTES:,}",
            size,
            by_hand.history_bytes,
            is_met=size <= HISTORY_BYTES,
        ),
        _exactly(case, "pieces kept", case.pieces, spent.pieces),
        _beside(case, "wall seconds", NO_TARGET, round(spent.wall_seconds, 1), round(by_hand.wall_seconds, 1)),
    ]


def _beside(case: Case, what: str, target: str, found: float, by_hand: float, *, is_met: bool = True) -> Result:
    """A figure of both sides, and their ratio."""
    return Result(case.name, what, target, f"{found / by_hand:.3g}", f"{found:,}", f"{by_hand:,}", is_met)


def _of_long(case: Case, spent: Spent) -> list[Result]:
    return [
        _exactly(case, "steps that succeeded", case.agents, sum(outcome.success for outcome in spent.outcomes)),
        _exactly(case, "activity events a step", 3, spent.activity_events / case.agents),
        _below(case, "history bytes a step", STEP_HISTORY_BYTES, round(spent.history_bytes / case.agents)),
        _below(case, "heartbeat details of a step", DETAILS_BYTES, spent.largest_details),
        _below(case, "heartbeat details of all, at once", case.agents * DETAILS_BYTES, spent.all_details),
        _exactly(case, "pieces kept", case.pieces, spent.pieces),
        _told(case, "bytes kept a step", f"{spent.piece_bytes / case.agents:,.0f}"),
        _told(case, "wall seconds", f"{spent.wall_seconds:.1f}"),
        _told(case, "largest memory of the process, MiB", f"{largest_memory_mib():,.0f}"),
    ]


def _of_limited(spent: Spent, errors: Sequence[int], calls: Sequence[Call]) -> list[Result]:
    case, consumed = LIMITED, spent.budget["consumed_tokens"]
    limit, too_low = case.budget_tokens or 0, sum(-error for error in errors if error < 0)
    stopped = sum(outcome.status == "budget_exceeded" for outcome in spent.outcomes)
    return [
        _below(case, "answers lost with attempts, of attempts lost", spent.lost_attempts, len(calls) - spent.requests),
        _told(case, "tokens consumed, of those billed", f"{consumed:,} of {sum(call.billed for call in calls):,}"),
        _below(case, "tokens over the limit, of those that estimates missed", too_low, max(0, consumed - limit)),
        _told(case, "agents that the limit stopped", f"{stopped} of {case.agents}"),
        _told(
            case,
            "estimate of a prompt minus what was counted",
            f"{statistics.mean(errors):+,.0f} (from {min(errors):+,} to {max(errors):+,})",
        ),
    ]


def _exactly(case: Case, what: str, expected: float, found: float) -> Result:
    return Result(case.name, what, f"exactly {_number(expected)}", _number(found), NO_SIDE, NO_SIDE, found == expected)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _below(case: Case, what: str, most: int, found: int) -> Result:
    return Result(case.name, what, f"<= {most:,}", f"{found:,}", NO_SIDE, NO_SIDE, found <= most)


def _told(case: Case, what: str, value: str) -> Result:
    return Result(case.name, what, NO_TARGET, value, NO_SIDE, NO_SIDE, is_met=True)
