"""Agents that answer with their prompt: a scripted world for tests and demos, with real checkpoints and real grants."""

from __future__ import annotations

import asyncio

from activities.context import StepContext
from activities.registry import EchoAgent
from workflows.errors import RetryableStepError, StepFailed
from workflows.steps import StepCall, Usage


class EchoExecutor:
    """Plays the script of an echo agent.

    Each turn asks for its tokens, waits, spends them and, with several turns, leaves a checkpoint. Then the scripted
    faults come, then the answer. Running twice spends only the turns that no checkpoint holds.
    """

    def __init__(self, entry: EchoAgent) -> None:
        self._entry = entry

    async def run(self, call: StepCall, context: StepContext) -> str:
        """The scripted answer, or the prompt."""
        entry = self._entry
        done = context.restored if isinstance(context.restored, int) else 0
        for turn in range(done + 1, entry.turns + 1):
            await self._take_turn(context)
            context.progress(f"turn {turn} of {entry.turns}")
            if entry.turns > 1:
                await context.checkpoint(turn)
        self._fail(context.attempt)
        return call.spec.prompt if entry.answer is None else entry.answer

    async def _take_turn(self, context: StepContext) -> None:
        entry = self._entry
        if entry.tokens or entry.cost_usd:
            context.check_before_llm(entry.tokens)
        if entry.delay_seconds:
            await asyncio.sleep(entry.delay_seconds)
        if entry.tokens or entry.cost_usd:
            context.record_after_llm(Usage(input_tokens=entry.tokens, requests=1, cost_usd=entry.cost_usd))

    def _fail(self, attempt: int) -> None:
        entry = self._entry
        if attempt <= entry.fail_attempts:
            text = entry.fail or "scripted failure"
            raise RetryableStepError(f"{text} (attempt {attempt} of {entry.fail_attempts} that fail)")
        if entry.fail is not None:
            raise StepFailed(entry.fail)
