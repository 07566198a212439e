"""What an agent is given besides its step: its grant, its checkpoints, its progress, its log.

Law: usage is counted once. It is cumulative over the attempts of a step and over its earlier schedulings: an attempt
starts from the largest of what the workflow has settled, what the latest checkpoint says and what the latest heartbeat
says, and adds what it spends itself. Lost with a killed worker: what was spent after the last of those, which is at
most the first two seconds of the attempt, or three quarters of a second later on.
Law: spent since this scheduling + the estimate of the next model call never passes the grant.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import structlog
from pydantic import JsonValue, ValidationError
from temporalio import activity

from activities.blobs import BlobStore, Checkpoints, plain_json
from activities.deputy import Deputy
from activities.heartbeat import INLINE_BYTES, PROGRESS_CHARACTERS, Beat, Pulse
from workflows.errors import BudgetExceeded, StepCancelled, cut
from workflows.steps import StepCall, Usage, task_label

INLINE = "inline:"
# Start of a transcript reference that is the checkpoint itself, as JSON: without a store, a suspended step takes it
# along through the history. At most 3 KB.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.agent")


class Attempt:
    """One attempt of a step: what it has spent, what it left, whether it was asked to stop.

    Made inside the activity. The executor's view of it is `StepContext`; `agents.py` reads it at the end.
    Its state may be changed by the event loop and by the thread of a `def` agent.
    """

    def __init__(self, call: StepCall, store: BlobStore | None, deputy: Deputy) -> None:
        self.call = call
        self.number = activity.info().attempt
        self.settled = call.resume.usage if call.resume else Usage()
        self.restored: JsonValue = None
        self.warnings: list[str] = []
        self.has_spent = False
        self.is_unsaved = False
        """Whether something was spent since the latest checkpoint: going on from there would pay for it twice."""
        self.is_stopping = False
        self.is_closed = False
        self.pulse = Pulse(self.beat, deputy)
        self.log = _log.bind(
            workflow_id=activity.info().workflow_id,
            task_id=call.spec.task_id,
            agent=call.spec.agent,
            attempt=self.number,
        )
        self._checkpoints = Checkpoints(store, call.key) if store else None
        self._reference: str | None = None
        self._inline: JsonValue = None
        self._inherited: list[JsonValue] = []
        """Pieces of an earlier attempt without a store, for the first piece that goes into one."""
        self._progress: str | None = None
        self._changing = threading.Lock()
        self._heard = self._last_beat()
        self.waits = self._heard.waits
        # Known from the first moment: an attempt that ends before it has read the store must not forget it.
        self.usage = _larger(self.settled, self._heard.usage)

    @property
    def transcript(self) -> str | None:
        """Reference to the latest checkpoint, for the step's next scheduling."""
        if self._reference is None and self._inline is not None:
            return f"{INLINE}{plain_json(self._inline)}"
        return self._reference

    def beat(self) -> Beat:
        """What the next heartbeat says."""
        with self._changing:
            return Beat(
                task=task_label(self.call.spec.task_id),
                usage=self.usage,
                waits=self.waits,
                progress=self._progress,
                reference=self._reference,
                checkpoint=self._inline if self._reference is None else None,
            )

    def close(self) -> None:
        """Accept nothing more: the step has its outcome."""
        self.is_closed = True
        self.pulse.stop()

    async def restore(self) -> None:
        """Take up what earlier attempts and schedulings left. Raises `StoreUnavailable`."""
        heard = self._heard
        left = await self._checkpoints.latest() if self._checkpoints else None
        self.usage = _larger(self.usage, left.usage if left else Usage())
        transcript = self.call.resume.transcript if self.call.resume else None
        if left:
            self.restored, self._reference = left.value, left.reference
        elif heard.checkpoint is not None:
            self.restored = self._inline = heard.checkpoint
        elif transcript and transcript.startswith(INLINE):
            self.restored = self._inline = json.loads(transcript.removeprefix(INLINE))
        elif transcript or heard.reference:
            self.warn(
                f"The checkpoint {transcript or heard.reference!r} is not in this worker's blob store, so the step "
                "began again. Set PERDURE_BLOBS to the same folder or bucket on every worker."
            )

    async def pieces(self) -> list[JsonValue]:
        """Everything that `add` has left, in order. Raises `StoreUnavailable`."""
        if self._checkpoints and self._reference is not None:
            whole = await self._checkpoints.all()
            if self._checkpoints.has_gap:
                self.warn(
                    "A piece that this step left in the blob store cannot be read, so what came after it is done, and "
                    "paid for, once more. The worker's log names the piece."
                )
            return [piece for left in whole for piece in _several(left.value)]
        inline = _several(self._inline)
        self._inherited = list(inline) if self._checkpoints else []
        return inline

    async def add(self, piece: JsonValue) -> None:
        """Leave a piece after the earlier ones; returns when it is durable, or when it is known that it cannot be."""
        if self._checkpoints is None:
            await self.keep([*_several(self._inline), piece])
        elif self._inherited:
            inherited, self._inherited = self._inherited, []
            await self.keep([*inherited, piece])
        else:
            await self.keep(piece)

    def _last_beat(self) -> Beat:
        """The latest heartbeat of this activity's earlier attempts."""
        for details in activity.info().heartbeat_details:
            try:
                return Beat.model_validate(details)
            except ValidationError:
                self.log.warning("The last heartbeat has details of another shape; they are passed over.")
        return Beat()

    def warn(self, text: str) -> None:
        """Tell the run something about this step, once."""
        with self._changing:
            if text in self.warnings:
                return
            self.warnings.append(text)
        self.log.warning(text)

    def report(self, text: str) -> None:
        """Keep what the step is doing for the next heartbeat."""
        printable = "".join(letter if letter.isprintable() else " " for letter in text)
        with self._changing:
            self._progress = cut(" ".join(printable.split()), PROGRESS_CHARACTERS)

    def spend(self, usage: Usage) -> None:
        """Count what a model call used."""
        if self.is_closed:
            self.log.warning("A model call ended after its step and is not counted.", tokens=usage.total_tokens)
            return
        with self._changing:
            self.usage += usage
            self.has_spent = self.is_unsaved = True
        self.pulse.hurry()

    def check(self, estimate: int, usd: float = 0.0) -> None:
        """Hold the next model call to the grant. Raises `BudgetExceeded`."""
        grant = self.call.grant
        if grant is None:
            return
        if grant.tokens is not None:
            self._check_tokens(grant.tokens, estimate)
        if grant.usd is not None:
            self._check_dollars(grant.usd, estimate, usd)

    def _check_tokens(self, granted: int, estimate: int) -> None:
        spent = self.usage.total_tokens - self.settled.total_tokens
        if spent < granted and spent + estimate <= granted:
            return
        asked = f", and the next model call is estimated at {estimate:,}" if estimate else ""
        raise BudgetExceeded(
            f"step {self.call.spec.task_id!r} has used {spent:,} of the {granted:,} tokens granted to it{asked}",
            needed=estimate,
        )

    def _check_dollars(self, granted: float, estimate: int, usd: float) -> None:
        if self.is_unpriced:
            self.warn("A model call of this step has no known price, so its limit in dollars cannot be held.")
            return
        spent = (self.usage.cost_usd or 0.0) - (self.settled.cost_usd or 0.0)
        if spent < granted and spent + usd <= granted:
            return
        asked = f", and the next model call is estimated at {usd:.4f}" if usd else ""
        raise BudgetExceeded(
            f"step {self.call.spec.task_id!r} has used {spent:.4f} of the {granted:.4f} dollars granted to it{asked}",
            needed=estimate,
            needed_usd=usd,
        )

    @property
    def is_unpriced(self) -> bool:
        """Whether something was spent whose price nobody knows, which is not the same as free."""
        return self.usage.cost_usd is None and self.usage.total_tokens > 0

    @property
    def remaining_tokens(self) -> int | None:
        """What the grant leaves; None where nothing limits it."""
        grant = self.call.grant
        if grant is None or grant.tokens is None:
            return None
        return max(0, grant.tokens - (self.usage.total_tokens - self.settled.total_tokens))

    @property
    def remaining_usd(self) -> float | None:
        """What the grant leaves in dollars; None where nothing limits it, or a price is not known."""
        grant = self.call.grant
        if grant is None or grant.usd is None or self.is_unpriced:
            return None
        return max(0.0, grant.usd - ((self.usage.cost_usd or 0.0) - (self.settled.cost_usd or 0.0)))

    async def keep(self, value: Any) -> None:
        """Leave a checkpoint; returns when it is durable, or when it is known that it cannot be kept."""
        if self.is_closed:
            raise StepCancelled("The step has ended: it takes no checkpoint any more.")
        written = plain_json(value)
        spent_until_here = self.usage
        if self._checkpoints:
            reference = await self._checkpoints.append(value, spent_until_here)
            self._mark_kept(spent_until_here, reference=reference)
            if not self.pulse.has_beaten:
                self.pulse.beat()  # from now on the step is one that beats
            elif not self.is_unsaved:
                self.pulse.calm()  # the store tells all that the next beat will
        elif len(written.encode()) <= INLINE_BYTES:
            self._mark_kept(spent_until_here, inline=value)
            await self.pulse.flush()
        else:
            self.warn(
                f"A checkpoint of more than {INLINE_BYTES:,} bytes was not kept, so another attempt starts from an "
                "earlier one, or anew. Set PERDURE_BLOBS to a folder or a bucket that all workers share."
            )

    def _mark_kept(self, usage: Usage, *, reference: str | None = None, inline: JsonValue = None) -> None:
        with self._changing:
            self._reference, self._inline = reference, inline
            self.is_unsaved = self.usage != usage  # something may have been spent while it was stored


def _several(value: JsonValue) -> list[JsonValue]:
    """The pieces of a checkpoint: a list of them, where there was no store to keep each by itself."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _larger(*told: Usage) -> Usage:
    """Usage is cumulative, so of two reports the larger one is the later."""
    return max(told, key=lambda usage: (usage.total_tokens, usage.requests, usage.tool_calls))


class StepContext:
    """What an agent may ask and tell while it runs."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def attempt(self) -> int:
        """Which attempt of the step this is, from 1."""
        return self._attempt.number

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the step; hand it to services that must act once."""
        return self._attempt.call.key

    @property
    def restored(self) -> Any:
        """The latest checkpoint of an earlier attempt or scheduling; None where there is none."""
        return self._attempt.restored

    @property
    def answers(self) -> dict[str, JsonValue]:
        """What others answered while the step was suspended, by call id; empty where it asked nothing.

        To a delegation the text of its specialist, to a tool request the fields of a `ToolDecision`.
        """
        resume = self._attempt.call.resume
        return resume.answers if resume else {}

    @property
    def usage(self) -> Usage:
        """What the step has spent so far, over all its attempts and schedulings."""
        return self._attempt.usage

    @property
    def cancelled(self) -> bool:
        """Whether the step has been asked to stop."""
        return self._attempt.is_stopping

    @property
    def log(self) -> structlog.typing.FilteringBoundLogger:
        """The worker's log, bound to this step."""
        return self._attempt.log

    async def checkpoint(self, value: Any) -> None:
        """Leave a plain JSON value for the next attempt, which finds it in `restored`; the latest one counts.

        Returns when it is durable. With a blob store: it is on disk. Without one: it has been sent to Temporal in a
        heartbeat (not acknowledged; half a second at most), and a value over 3 KB is not kept, which a warning on the
        outcome says. Raises ValueError where the value is not JSON.
        """
        await self._attempt.keep(value)

    async def pieces(self) -> list[Any]:
        """Every piece that earlier attempts and schedulings have left by `add`, in order."""
        return await self._attempt.pieces()

    async def add(self, piece: Any) -> None:
        """Leave a piece after the earlier ones, instead of one checkpoint in the place of another.

        For what grows, as a conversation does: with a blob store only the new piece is written. Without one all pieces
        together must stay below 3 KB; then and otherwise as `checkpoint`.
        """
        await self._attempt.add(piece)

    @property
    def is_unsaved(self) -> bool:
        """Whether something was spent that no checkpoint tells of: another attempt would pay for it again."""
        return self._attempt.is_unsaved

    @property
    def remaining_tokens(self) -> int | None:
        """What the step may still spend before it must ask for more; None where nothing limits it."""
        return self._attempt.remaining_tokens

    @property
    def remaining_usd(self) -> float | None:
        """The same in dollars; None also where something was spent whose price nobody knows."""
        return self._attempt.remaining_usd

    def warn(self, text: str) -> None:
        """Tell the run something about this step, once: it becomes an event."""
        self._attempt.warn(text)

    def check_before_llm(self, estimate: int = 0, *, usd: float = 0.0) -> None:
        """Ask before a model call that may use `estimate` tokens and cost `usd`. Raises `BudgetExceeded`; let it pass.

        The step then gets more tokens and runs again from its latest checkpoint; where it has spent something since
        that checkpoint it is denied instead, for running again would pay for it twice.
        """
        self._attempt.check(estimate, usd)

    def record_after_llm(self, usage: Usage) -> None:
        """Count what a model call used; once for each call."""
        if not isinstance(usage, Usage):
            raise TypeError(f"record_after_llm takes a workflows.Usage, not {type(usage).__name__!r}.")
        self._attempt.spend(usage)

    def progress(self, text: str) -> None:
        """Say what the step is doing; seen with the activity in the Temporal UI at the next heartbeat."""
        self._attempt.report(text)

    def blocking(self) -> BlockingStepContext:
        """The same context for a `def` agent. Made on the event loop."""
        return BlockingStepContext(self._attempt, asyncio.get_running_loop())


class BlockingStepContext(StepContext):
    """The context of a `def` agent, which runs in a thread: `checkpoint` blocks until the value is durable.

    Once the step was cancelled every call raises `StepCancelled`, after it has kept what it was told.
    """

    def __init__(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(attempt)
        self._loop = loop

    def checkpoint(self, value: Any) -> None:  # type: ignore[override]  # a `def` agent cannot await
        """Leave a value for the next attempt, as `StepContext.checkpoint` does; returns when it is durable."""
        if not self._attempt.is_closed:
            asyncio.run_coroutine_threadsafe(super().checkpoint(value), self._loop).result()
        self._stop_if_cancelled()

    def check_before_llm(self, estimate: int = 0, *, usd: float = 0.0) -> None:
        """Ask before a model call, as `StepContext.check_before_llm` does."""
        self._stop_if_cancelled()
        super().check_before_llm(estimate, usd=usd)

    def record_after_llm(self, usage: Usage) -> None:
        """Count what a model call used; once for each call."""
        super().record_after_llm(usage)
        self._stop_if_cancelled()

    def progress(self, text: str) -> None:
        """Say what the step is doing."""
        super().progress(text)
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self._attempt.is_stopping or self._attempt.is_closed:
            raise StepCancelled("The step was cancelled.")
