"""Agents whose effects can be counted from outside."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from activities.context import StepContext
from tests.crash.diary import Diary
from workflows import AgentStepSpec, Usage


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
