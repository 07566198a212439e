"""What agents that are models cost their run: a long loop, many at once with long transcripts, many under a limit.

The provider is scripted, a process of its own, and bills what it is told to. Worker, agents and client share one
process, whose memory is told.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs
from temporalio.client import Client, WorkflowHandle

from activities.blobs import FolderStore
from activities.executors.model.asking import COUNTED
from activities.heartbeat import DETAILS_BYTES
from activities.registry import ModelAgent, Registry
from activities.tools.registry import Tool, Toolbox
from benchmarks.by_verbs import FanOut
from benchmarks.measure import ACTIVITY_EVENTS
from benchmarks.results import NO_TARGET, Result
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
NONE = "–"

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


LOOP = Case("one agent, 200 tool calls of 4 KB", agents=1, calls=200, characters=4_096)
LONG = Case(f"{MANY} agents at once, transcripts of 400 KB", agents=MANY, calls=10, characters=40_960)
LIMITED = Case(f"{MANY} agents under a limit", agents=MANY, calls=5, characters=4_096, budget_tokens=13_000 * MANY)


@dataclass(frozen=True)
class Spent:
    """What a case took."""

    outcomes: Sequence[StepOutcome]
    budget: dict[str, Any]
    wall_seconds: float
    activity_events: int
    history_bytes: int
    largest_details: int
    """Bytes of one activity's heartbeat details."""
    all_details: int
    """Bytes of those of all activities that were pending at once."""
    lost_attempts: int
    """Attempts that Temporal gave up: on a machine with much other work a worker's beats may come too late."""
    pieces: int
    piece_bytes: int

    @property
    def requests(self) -> int:
        """Answers that the outcomes tell of."""
        return sum(outcome.usage.requests for outcome in self.outcomes)


def page(number: int, characters: int) -> str:
    """A page of a book."""
    return f"Page {number}. ".ljust(characters, ".")


async def measure(client: Client, folder: Path, tell: Callable[[str], None]) -> list[Result]:
    """Run the three cases, each in a folder and on a task queue of its own."""
    async with provider_process(SCRIPT, folder) as provider:
        results: list[Result] = []
        for case, judge in ((LOOP, _of_loop), (LONG, _of_long)):
            spent = await _spent(client, case, provider.url(), folder / uuid.uuid4().hex)
            tell(f"{case.name}: {spent.wall_seconds:.1f} s, {spent.pieces:,} pieces of {spent.piece_bytes:,} bytes")
            results += judge(case, spent)
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
    history = await handle.fetch_history()
    execution = (await handle.describe()).raw_description.workflow_execution_info
    kept = [piece.size async for piece in FolderStore(blobs).pieces("steps")]
    return Spent(
        outcomes=outcomes,
        budget=budget,
        wall_seconds=wall_seconds,
        activity_events=sum(event.event_type in ACTIVITY_EVENTS for event in history.events),
        history_bytes=execution.history_size_bytes,
        largest_details=largest,
        all_details=together,
        lost_attempts=sum(
            event.activity_task_started_event_attributes.attempt - 1
            for event in history.events
            if event.HasField("activity_task_started_event_attributes")
        ),
        pieces=len(kept),
        piece_bytes=sum(kept),
    )


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
        sizes = [activity.heartbeat_details.ByteSize() for activity in description.pending_activities]
        largest, together = max([largest, *sizes]), max(together, sum(sizes))
        if description.workflow_execution_info.HasField("close_time"):
            return largest, together
        await asyncio.sleep(LOOK_SECONDS)


def _of_loop(case: Case, spent: Spent) -> list[Result]:
    return [
        _exactly(case, "activity events", 3, spent.activity_events),
        _below(case, "history bytes", HISTORY_BYTES, spent.history_bytes),
        _exactly(case, "pieces kept", case.pieces, spent.pieces),
        _told(case, "wall seconds", f"{spent.wall_seconds:.1f}"),
    ]


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
        _told(case, "largest memory of the process, MB", f"{_megabytes():,.0f}"),
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
    return Result(case.name, what, f"exactly {_number(expected)}", _number(found), NONE, NONE, found == expected)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _below(case: Case, what: str, most: int, found: int) -> Result:
    return Result(case.name, what, f"<= {most:,}", f"{found:,}", NONE, NONE, found <= most)


def _told(case: Case, what: str, value: str) -> Result:
    return Result(case.name, what, NO_TARGET, value, NONE, NONE, is_met=True)


def _megabytes() -> float:
    """The most memory that this process had so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
