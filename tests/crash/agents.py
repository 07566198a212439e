"""Agents and tools whose effects can be counted from outside, and which can be held there until a test lets them go."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

from pydantic import JsonValue

from activities.context import StepContext
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.registry import tool
from tests.crash.diary import Diary
from workflows import AgentStepSpec, Usage

GATES = "closed-gates.json"
PACE = "pace"
PAGE_CHARACTERS = 4_096
LOOK_SECONDS = 0.05
# How often work that is held looks whether its gate has opened; dozens of steps look at once.


class Gates:
    """Gates that work passes by its name: what comes to a closed one waits there, so that a kill finds it under way."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / GATES
        self._pace = folder / PACE

    def close(self, names: Iterable[str]) -> None:
        """These gates are closed from now on, and no others."""
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps(sorted(names)))
        written.replace(self._file)  # whoever looks sees the old list or the new one

    def slow(self, seconds: float) -> None:
        """From now on passing takes so long, also where the gate is open: work takes its time."""
        self._pace.write_text(str(seconds))

    async def passed(self, *names: str) -> None:
        """Return when the gates of all these names are open."""
        if self._pace.exists():
            await asyncio.sleep(float(self._pace.read_text()))
        while True:
            if self._closed().isdisjoint(names):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _closed(self) -> set[str]:
        return set(json.loads(self._file.read_text())) if self._file.exists() else set()


def labour(step: AgentStepSpec, context: StepContext) -> str:
    """Works for as many seconds as the prompt says."""
    diary = Diary(Path.cwd())
    row = diary.begin(step.task_id, context.idempotency_key, context.attempt)
    time.sleep(float(step.prompt))  # the work itself, in a thread of its own
    diary.end(row)
    return f"{step.task_id} done by process {os.getpid()}"


async def walk(step: AgentStepSpec, context: StepContext) -> str:
    """Takes turns, each of which costs tokens and leaves a checkpoint. The prompt: {"turns", "seconds", "tokens"}."""
    plan, diary, key = json.loads(step.prompt), Diary(Path.cwd()), context.idempotency_key
    row = diary.begin(step.task_id, key, context.attempt)
    done = context.restored if isinstance(context.restored, int) else 0
    for turn in range(done + 1, plan["turns"] + 1):
        context.check_before_llm(plan["tokens"])
        await asyncio.sleep(plan["seconds"])  # the model call
        paid = diary.pay(key, context.attempt, turn, plan["tokens"])
        context.record_after_llm(Usage(input_tokens=plan["tokens"], requests=1))
        await context.checkpoint(turn)
        diary.keep(paid)
    diary.end(row)
    return f"{step.task_id} took {plan['turns']} turns"


async def scribe(step: AgentStepSpec, context: StepContext) -> JsonValue:
    """Answers with its name and a sum of its prompt, or as `says` in its metadata has it for this step.

    It waits at the gate of its step, and at that of its whole prompt.
    """
    diary = Diary(Path.cwd())
    row = diary.begin(step.task_id, context.idempotency_key, context.attempt)
    await Gates(Path.cwd()).passed(step.task_id, step.prompt)
    diary.end(row)
    says = step.profile.metadata.get("says") if step.profile else None
    read = f"{step.task_id} read {crc32(step.prompt.encode()):08x}"
    return says.get(step.task_id, read) if isinstance(says, dict) else read


def page(name: str, context: ToolContext) -> str:
    """A page of a book, 4 KB."""
    diary = Diary(context.workspace)
    diary.end(diary.begin(f"page {name}", context.idempotency_key, context.attempt))
    return f"Page {name}. ".ljust(PAGE_CHARACTERS, ".")


@tool(requires_approval=True)
async def stamp(name: str, context: ToolContext) -> str:
    """Stamp a paper, waiting at its gate."""
    return await toil(f"stamp {name}", context)


async def toil(name: str, context: ToolContext, fails: int = 0) -> str:
    """Work under a name, waiting at its gate; the first attempts fail, as many as asked for."""
    diary = Diary(context.workspace)
    row = diary.begin(name, context.idempotency_key, context.attempt)
    if context.attempt > fails:
        await Gates(context.workspace).passed(name)
    diary.end(row)
    if context.attempt <= fails:
        raise ToolFailed(f"{name} failed")
    return f"{name} done"
