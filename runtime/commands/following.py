"""Waiting for a run in sight of a person: a live view on a terminal, a line for each event elsewhere.

Law: the run's own ending decides when the waiting is over; what cannot be read meanwhile is said, not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import click

from runtime.commands.options import COMPLETED, INTERRUPTED, NOT_COMPLETED
from runtime.commands.session import Session, is_terminal, print_json, tell
from runtime.report import View, ending_lines, event_line, live_view
from runtime.watching import Ending, Json, NoAnswer, RunReader

PAUSE = timedelta(milliseconds=400)
# Between two looks at a run: often enough to be followed by eye.
QUIET_SHARE = 10
# A look that takes long (a large run, a busy worker) is followed by a pause this many times as long.
REFRESH_PER_SECOND = 4


@dataclass
class Follower:
    """Reads what is new of a run, and hands it on."""

    reader: RunReader
    on_event: Callable[[Json], None]
    after: int = -1
    view: View | None = None
    """Kept up to date where there is one."""
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
            await self._look()
            took = loop.time() - begun
            await asyncio.sleep(max(PAUSE.total_seconds(), took * QUIET_SHARE))

    async def _look(self) -> None:
        """Read what is new. What cannot be read is told once."""
        try:
            await self._read()
        except NoAnswer as silent:
            self._notice(str(silent))
        else:
            self._notice(None)

    async def _read(self) -> None:
        page = await self.reader.all_events(self.after)
        if page["dropped"]:
            tell(f"{page['dropped']:,} earlier events are no longer held by the run.")
        self.after = page["last_offset"]
        for envelope in page["events"]:
            self.on_event(envelope)
        if self.view is not None:
            self.view.progress = await self.reader.progress()
            self.view.budget = await self.reader.budget()

    def _notice(self, text: str | None) -> None:
        if self.view is not None:
            self.view.notice = text
        elif text is not None and text not in self._told:
            self._told.add(text)
            tell(text)


async def follow(session: Session, reader: RunReader, interrupted: asyncio.Event, *, is_lined: bool) -> Ending | None:
    """Show a run until it ends. `is_lined`: with --json, print one JSON line for each event instead of nothing."""
    if session.common.is_json:
        on_event: Callable[[Json], None] = print_json if is_lined else _ignore
        return await Follower(reader, on_event).follow(interrupted)
    if not is_terminal():
        return await Follower(reader, lambda envelope: click.echo(event_line(envelope))).follow(interrupted)
    view = View(reader.info)

    async with _shown(view, reader):
        return await Follower(reader, view.note, view=view).follow(interrupted)


def _ignore(_envelope: Json) -> None:
    """The final value of --json says it all."""


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
    if session.common.is_local:
        tell(
            f"Run {name!r} is not lost: it goes on at the next `perdure … --local` in this folder, "
            f"for example `perdure watch {name} --local`."
        )
    else:
        place = session.common.place
        tell(
            f"Run {name!r} goes on. Watch it with `perdure watch {name}{place}`, "
            f"or end it with `perdure cancel {name}{place}`."
        )
