"""How a tool is called: under a time limit, for a result that a history can hold or a failure that says why not.

Law: a call ends. A thread cannot be killed, so a `def` tool that does not stop is left behind with a warning.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import traceback
from concurrent.futures import Executor as Threads
from typing import Any

from pydantic import BaseModel, JsonValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from activities.blobs import plain_json
from activities.stopping import has_ended_within
from activities.tools.context import ToolContext, ToolFailed
from activities.tools.registry import Tool
from workflows import wire
from workflows.errors import PerdureError, cut

STOP_SECONDS = 2.0
# What a tool gets to stop when its call ends early: a loop sees it at its next turn.
DEFAULT_TIMEOUT_SECONDS = 3600.0
# A call must end some day. A tool that works longer says so, by `timeout_seconds` or its action's `timeout_ms`.
FRAME_BYTES = 10_000
# The rest of the outcome: an error text of 2,000 characters, status and attempts.
MAX_DEPTH = 100
# JSON readers give up at about 200 levels, and a result is stored some levels deep in those of stages and runs.
ERROR_CHARACTERS = 2_000
# A failure's text is shown in the UI and stored in the history several times.
TRACEBACK_FRAMES = 15
TRACEBACK_CHARACTERS = 8_000


def largest_result() -> int:
    """Bytes that a tool's result may take here: with a blob store more than without."""
    return wire.largest_payload() - FRAME_BYTES


async def call_tool(
    tool: Tool, arguments: dict[str, Any], context: ToolContext, *, threads: Threads, timeout_seconds: float | None
) -> JsonValue:
    """What the tool returned, as JSON. Raises `ToolFailed`; CancelledError after the tool has stopped or was left."""
    if tool.context_parameter is not None:
        arguments = {**arguments, tool.context_parameter: context}
    limit = timeout_seconds or tool.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    work = asyncio.create_task(_result(tool, arguments, context, threads), name=f"tool {tool.name}")
    try:
        await asyncio.wait([work], timeout=limit)
    except asyncio.CancelledError:
        if not work.done():  # else it ended in the same breath, and that is its end
            await _stop(work, tool, context)
            raise
    if not work.done():
        await _stop(work, tool, context)
        raise ToolFailed(f"tool '{tool.name}' timed out after {round(limit * 1000)}ms")
    if work.cancelled():
        raise ToolFailed(f"tool '{tool.name}' cancelled itself: asyncio.CancelledError left it")
    error = work.exception()
    if error is not None and not isinstance(error, ToolFailed):
        # Raised on, it would be an attempt that failed: Temporal would call the tool again and again.
        raise ToolFailed(_told(tool, error, context))
    return work.result()


async def _result(tool: Tool, arguments: dict[str, Any], context: ToolContext, threads: Threads) -> JsonValue:
    if not tool.is_async:
        run = contextvars.copy_context().run  # so that loggers know the call there too
        started = threads.submit(run, _called, tool, arguments, context)
        ended = await asyncio.wrap_future(started)
        return ended.taken()
    try:
        value = await tool.function(**arguments)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - a tool may raise anything
        raise ToolFailed(_told(tool, error, context)) from None
    # In a thread: a large result takes longer than the event loop may be held.
    return await asyncio.to_thread(_as_json, tool, value)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ended:
    """How a `def` tool ended; a future cannot carry every error (StopIteration)."""

    value: JsonValue = None
    failure: str | None = None

    def taken(self) -> JsonValue:
        if self.failure is not None:
            raise ToolFailed(self.failure)
        return self.value


def _called(tool: Tool, arguments: dict[str, Any], context: ToolContext) -> _Ended:
    try:
        value = tool.function(**arguments)
    except BaseException as error:  # noqa: BLE001 - a tool may raise anything, and its call must end
        return _Ended(failure=_told(tool, error, context))
    try:
        return _Ended(value=_as_json(tool, value))
    except ToolFailed as failure:
        return _Ended(failure=str(failure))


def _told(tool: Tool, error: BaseException, context: ToolContext) -> str:
    """The failure's text; the traceback goes to the worker's log."""
    if isinstance(error, ToolFailed):
        return _clean(_text_of(error))
    if isinstance(error, PerdureError):
        return _clean(error.message)
    if isinstance(error, SystemExit):
        return f"tool '{tool.name}' called sys.exit({error.code!r}). Return a result, or raise an error"
    trace = "".join(traceback.format_exception(error, limit=-TRACEBACK_FRAMES))
    context.log.warning("A tool failed.", traceback=cut(trace, TRACEBACK_CHARACTERS))
    text = _text_of(error)
    return _clean(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a tool's own errors may have a fault too
        return ""


def _clean(text: str) -> str:
    """A text that any JSON can hold, and of bounded length."""
    return cut(text.encode("utf-8", "backslashreplace").decode(), ERROR_CHARACTERS)


async def _stop(work: asyncio.Task[Any], tool: Tool, context: ToolContext) -> None:
    """Tell a tool to stop and wait a moment for its end, however often we are cancelled meanwhile."""
    context.stop()
    if tool.is_async:
        work.cancel()
    if not await has_ended_within(STOP_SECONDS, work):
        work.cancel()  # ends a call that still waits for a thread; it does nothing to one that has it
        context.log.warning(
            "A tool did not stop, and was left behind. Check `context.cancelled` in every loop of a `def` tool.",
            waited_seconds=STOP_SECONDS,
        )


def _as_json(tool: Tool, value: Any) -> JsonValue:
    """A tool's result as plain JSON. Raises `ToolFailed`."""
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        try:
            value = to_jsonable_python(value)
        except (PydanticSerializationError, ValueError) as error:
            raise ToolFailed(_clean(f"tool '{tool.name}' returned what is no JSON: {error}")) from None
    if _is_too_deep(value):
        raise ToolFailed(f"tool '{tool.name}' returned JSON of more than {MAX_DEPTH} levels. Return a flatter result.")
    try:
        written = plain_json(value)
    except (ValueError, RecursionError) as error:
        found = "what" if isinstance(value, (dict, list, str)) else f"a value of type {type(value).__name__!r}, which"
        raise ToolFailed(_clean(f"tool '{tool.name}' returned {found} is no JSON: {error}")) from None
    size = len(written.encode())
    limit = largest_result()
    if size > limit:
        raise ToolFailed(
            f"tool '{tool.name}' returned {size / 1e6:.1f} MB and the limit is {limit / 1e6:.1f} MB. "
            "Return less, or write it to a file and return its path."
        )
    result: JsonValue = value
    return result


def _is_too_deep(value: Any) -> bool:
    """Whether lists and dicts nest beyond the limit. What contains itself is left to the JSON writer, which says so."""
    seen: set[int] = set()
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [held for held in layer if isinstance(held, (dict, list)) and id(held) not in seen]
        seen.update(id(held) for held in layer)
        layer = [item for held in layer for item in (held.values() if isinstance(held, dict) else held)]
        if not layer:
            return False
    return any(isinstance(held, (dict, list)) for held in layer)
