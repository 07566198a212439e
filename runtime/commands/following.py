"""Waiting for a run in sight of a person: a live view on a terminal, a line for each event elsewhere.

Law: the run's own ending decides when the waiting is over; what cannot be read meanwhile is said, not waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import click
from temporalio.client import WorkflowQueryFailedError

from runtime.commands.options import COMPLETED, INTERRUPTED, NOT_COMPLETED
from runtime.commands.session import Session, is_terminal, print_json, tell
from runtime.endings import ending_lines
from runtime.pending import Pending, by_step
from runtime.questions import question_lines
from runtime.report import View, event_line, live_view, pending_line
from runtime.standing import Ending, Json
from runtime.watching import NoAnswer, NotBegun, RunReader
from workflows.approvals import ApprovalRequest

PAUSE = timedelta(milliseconds=400)
# Between two looks at a run: often enough to be followed by eye.
QUIET_SHARE = 10
# A look that takes long (a large run, a busy worker) is followed by a pause this many times as long.
LONGEST_SILENCE = timedelta(seconds=5)
# A run that did not answer within the timeout is asked again soon: its worker may be back.
REFRESH_PER_SECOND = 4

TOLD_EVERY = timedelta(seconds=10)
# Of one step: a log of a hundred of them stays readable, and a person sees that it goes on.

APPROVAL_EVENTS = ("approval_asked", "approval_resolved", "stage_finished")
# After these, something else may wait for a person.


@dataclass
class StepReporter:
    """Tells what the steps in flight are doing: of each when it has said something new, and now and then."""

    tell: Callable[[str, Pending], None]
    _running: dict[str, Json] = field(default_factory=dict)
    """The steps in flight, as events tell of them."""
    _told: dict[str, tuple[float, Pending]] = field(default_factory=dict)

    @property
    def is_idle(self) -> bool:
        """Whether no step is in flight."""
        return not self._running

    def note(self, envelope: Json) -> None:
        """Take in the next event."""
        event = envelope["event"]
        if event["type"] == "step_started":
            self._running[event["step"]] = {"step": event["step"], "begun": envelope["time"]}
        elif event["type"] == "step_finished":
            self._running.pop(event["step"], None)
            self._told.pop(event["step"], None)

    def report(self, pending: list[Pending]) -> None:
        """Tell what is new."""
        now = time.monotonic()
        for step, said in by_step(self._running.values(), pending).items():
            told_at, before = self._told.get(step, (float("-inf"), None))
            if said.is_telling and said != before and now - told_at >= TOLD_EVERY.total_seconds():
                self._told[step] = (now, said)
                self.tell(step, said)


@dataclass
class Follower:
    """Reads what is new of a run, and hands it on."""

    reader: RunReader
    on_event: Callable[[Json], None] | None
    """Without it only the run's end is waited for, and what keeps it from going on is told."""
    after: int = -1
    view: View | None = None
    """Kept up to date where there is one."""
    on_waiting: Callable[[list[Json]], None] | None = None
    """Hears what waits for a person's answer, whenever that may have changed."""
    reporter: StepReporter | None = None
    """Hears what the steps in flight are doing."""
    needs_events: bool = True
    """Without it a run that cannot tell events is waited for all the same, and nothing is said of it."""
    _has_asked: bool = False
    _carried: int = 0
    """Children in flight that carry steps."""
    _told: set[str] = field(default_factory=set)

    async def follow(self, interrupted: asyncio.Event) -> Ending | None:
        """How the run ended; None where the person stopped watching first."""
        ended = asyncio.create_task(self.reader.ending())
        stopped = asyncio.create_task(interrupted.wait())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({ended, stopped, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()  # it ends by an error only
        finally:
            for task in (watching, stopped):
                task.cancel()
            await asyncio.gather(watching, stopped, return_exceptions=True)
            if not ended.done():
                ended.cancel()
        if not ended.done() or ended.cancelled():
            return None
        ending = ended.result()
        await self.reader.refresh()
        await self._look()
        return ending

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            is_told = await self._look()
            took = loop.time() - begun
            pause = max(PAUSE.total_seconds(), took * QUIET_SHARE)
            await asyncio.sleep(pause if is_told else min(pause, LONGEST_SILENCE.total_seconds()))

    async def _look(self) -> bool:
        """Read what is new; whether that could be read. What cannot be is told once."""
        try:
            await self._read()
        except NotBegun:
            self._notice(None)  # its failure tells, or it begins in a moment
        except NoAnswer as silent:
            if not self.needs_events and isinstance(silent.__cause__, WorkflowQueryFailedError):
                self.on_event = None
                return True
            self._notice(str(silent))
            return False
        else:
            self._notice(None)
        return True

    async def _read(self) -> None:
        if self.on_event is None:
            await self.reader.see_served()
            return
        page = await self.reader.all_events(self.after)
        if page["dropped"]:
            tell(f"{page['dropped']:,} earlier events are no longer held by the run.")
        self.after = page["last_offset"]
        for envelope in page["events"]:
            self.on_event(envelope)
            if self.reporter is not None:
                self.reporter.note(envelope)
            self._note(envelope["event"]["type"])
        if (self._has_asked or self._carried > 0) and self.on_waiting is not None:
            self.on_waiting(await self.reader.approvals() if self.reader.info.is_open else [])
            self._has_asked = False
        if self.view is not None:
            self.view.progress = await self.reader.progress()
            self.view.budget = await self.reader.budget()
        await self._hear()

    def _note(self, kind: str) -> None:
        """What tells whether somebody may be asking; what is asked in children is told there alone."""
        self._has_asked |= kind in (*APPROVAL_EVENTS, "slice_finished")
        self._carried += {"slice_started": 1, "slice_finished": -1}.get(kind, 0)

    async def _hear(self) -> None:
        """What the steps in flight are doing."""
        if self.view is not None:
            is_busy = self.reader.info.is_open and bool(self.view.progress and self.view.progress["running"])
            self.view.pending = await self.reader.pending() if is_busy else []
        elif self.reporter is not None and self.reader.info.is_open and not self.reporter.is_idle:
            self.reporter.report(await self.reader.pending())

    def _notice(self, text: str | None) -> None:
        if self.view is not None:
            self.view.notice = text
        elif text is not None and text not in self._told:
            self._told.add(text)
            tell(text)


async def follow(session: Session, reader: RunReader, interrupted: asyncio.Event, *, is_lined: bool) -> Ending | None:
    """Show a run until it ends. `is_lined`: with --json, print one JSON line for each event instead of nothing."""
    telling = _telling(reader.info.id, session.place)
    if session.common.is_json:
        show, reporter = (print_json, StepReporter(_pending_json)) if is_lined else (_nothing, None)
        silent = Follower(reader, show, on_waiting=telling, reporter=reporter, needs_events=is_lined)
        return await silent.follow(interrupted)
    if not is_terminal():
        reporter = StepReporter(lambda step, said: click.echo(pending_line(step, said, datetime.now(UTC))))
        lines = Follower(
            reader, lambda envelope: click.echo(event_line(envelope)), on_waiting=telling, reporter=reporter
        )
        return await lines.follow(interrupted)
    view = View(reader.info, place=session.place)

    def wait(waiting: list[Json]) -> None:
        view.approvals = waiting

    async with _shown(view, reader):
        return await Follower(reader, view.note, view=view, on_waiting=wait).follow(interrupted)


def _nothing(_envelope: Json) -> None:
    """Events are read for what waits for a person, and not shown."""


def _pending_json(step: str, said: Pending) -> None:
    print_json({"time": datetime.now(UTC).isoformat(), "step": step, "heartbeat": said.to_json()})


def _telling(run: str, place: str) -> Callable[[list[Json]], None]:
    """Tells each question to a person once, in full, with the command that answers it; on stderr."""
    told: set[str] = set()

    def tell_new(waiting: list[Json]) -> None:
        for asked in map(ApprovalRequest.model_validate, waiting):
            if asked.id not in told:
                told.add(asked.id)
                tell("\n".join(["A person must answer:", *question_lines(run, asked, place)]))

    return tell_new


@asynccontextmanager
async def _shown(view: View, reader: RunReader) -> AsyncIterator[None]:
    """The live view on the terminal while the block runs; its last state stays."""
    from rich.live import Live

    def render() -> object:
        view.info = reader.info
        return live_view(view, datetime.now(UTC))

    with Live(get_renderable=render, refresh_per_second=REFRESH_PER_SECOND) as live:  # type: ignore[arg-type]
        yield
        live.refresh()


async def conclude(session: Session, reader: RunReader, ending: Ending | None) -> int:
    """Say how the waiting ended, and give the exit code."""
    if ending is None:
        _tell_detached(session, reader)
        return INTERRUPTED
    if session.common.is_json:
        return exit_code(ending)
    lines = ending_lines(reader.info, ending)
    for line in lines:
        click.echo(line)
    return exit_code(ending)


def exit_code(ending: Ending) -> int:
    """0 where the run did what it was for, else 1."""
    return COMPLETED if ending.is_success else NOT_COMPLETED


def _tell_detached(session: Session, reader: RunReader) -> None:
    name = reader.info.id
    watching = session.again("watch", name)
    if session.common.is_local:
        tell(
            f"Run {name!r} is not lost: it goes on at the next `perdure … --local` in this folder, "
            f"for example `{watching}`."
        )
    else:
        tell(f"Run {name!r} goes on. Watch it with `{watching}`, or end it with `{session.again('cancel', name)}`.")
