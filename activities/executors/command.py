"""Agents that are programs: argv from agents.toml, never a shell.

The prompt is on stdin. Exit status 0 is success, 75 (EX_TEMPFAIL) asks for another attempt, any other fails the step.
With `output = "json"` stdout is one JSON value: an object of nothing but `output` (text), `structured` (object) and
`usage` (as in `Usage`) says each; any other object is the structured result; a text is the output; of anything else the
output is its JSON.

Law: nothing that a program started in its process group outlives the step, however the step ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from activities.context import StepContext
from activities.executors import Resources
from activities.registry import CommandAgent
from workflows.errors import RetryableStepError, StepFailed
from workflows.parsing import reason_of
from workflows.steps import StepCall, StepOutcome, Usage

TRY_AGAIN_STATUS = os.EX_TEMPFAIL
# The one exit status of sysexits.h that means "later, perhaps".
TERM_SECONDS = 2.0
# Between SIGTERM and SIGKILL: time to remove a lock file, not to finish the work.
GONE_POLL_SECONDS = 0.02
# At most a hundred looks are made in all: cheap, and a program that obeys delays nobody.
PIPE_SECONDS = 2.0
# After the group is gone its pipes are empty and closed, unless a daemon that left the group holds them.
WITHHELD = frozenset(
    {"PERDURE_CODEC_KEY", "PERDURE_CODEC_KEYS_OLD", "TEMPORAL_API_KEY", "TEMPORAL_TLS_CLIENT_KEY_DATA"}
)
# Of the worker's environment a program does not inherit what opens every run's payloads, or Temporal itself. An agent
# that needs them has them in its own `env`.
STDERR_CHARACTERS = 1_500
STDERR_BYTES = 4 * STDERR_CHARACTERS
# The end of stderr is quoted in the failure, whose text is cut at 2,000; a character takes at most four bytes.


class CommandExecutor:
    """Runs the program of an agent. Running twice runs the program twice, with the same PERDURE_IDEMPOTENCY_KEY."""

    def __init__(self, entry: CommandAgent, resources: Resources) -> None:
        self._entry = entry
        self._workspace = resources.workspace or Path.cwd()

    async def run(self, call: StepCall, context: StepContext) -> StepOutcome:
        """What the program wrote, as an outcome: an empty stdout is an answer too."""
        program = await self._start(call, context)
        try:
            await program.write(call.spec.prompt.encode())
            await program.ended()
        finally:
            await program.end()
        return self._outcome(call, context, program)

    async def _start(self, call: StepCall, context: StepContext) -> _Program:
        folder = self._workspace / (self._entry.cwd or "")
        name = self._entry.command[0]
        if not await asyncio.to_thread(folder.is_dir):
            raise StepFailed(f"the folder {str(folder)!r} that {name!r} is to run in does not exist")
        try:
            return await _Program.started(
                self._entry.command,
                env=self._environment(call, context),
                cwd=folder,
                limit=self._entry.max_output_bytes,
            )
        except FileNotFoundError:
            raise StepFailed(
                f"the program {name!r} was not found. Install it, or give its path in agents.toml"
            ) from None
        except OSError as error:
            raise StepFailed(f"the program {name!r} could not be started: {error.strerror}") from None

    def _environment(self, call: StepCall, context: StepContext) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name not in WITHHELD},
            **self._entry.env,
            "PERDURE_TASK_ID": call.spec.task_id,
            "PERDURE_IDEMPOTENCY_KEY": context.idempotency_key,
            "PERDURE_ATTEMPT": str(context.attempt),
        }

    def _outcome(self, call: StepCall, context: StepContext, program: _Program) -> StepOutcome:
        entry, name = self._entry, self._entry.command[0]
        if program.is_over_limit:
            raise StepFailed(
                f"{name!r} wrote more than the {entry.max_output_bytes:,} bytes of max_output_bytes to stdout and was "
                "ended. Raise the limit in agents.toml, or let it write a file and name it"
            )
        if program.status != 0:
            self._count_usage(context, program.stdout)
            raise _failure(name, program)
        text = _text(name, program.stdout)
        if entry.output == "text":
            return _succeeded(call, output=text)
        answer = _answer(name, text)
        context.record_after_llm(answer.usage)
        return _succeeded(call, output=answer.output, structured=answer.structured)

    def _count_usage(self, context: StepContext, stdout: bytes | bytearray) -> None:
        """A program that failed may still have said what it spent."""
        if self._entry.output == "json":
            with suppress(StepFailed):
                name = self._entry.command[0]
                context.record_after_llm(_answer(name, _text(name, stdout)).usage)


class _Answer(BaseModel):
    """What a program with `output = "json"` may write."""

    model_config = ConfigDict(extra="forbid", strict=True)

    output: str = ""
    structured: dict[str, JsonValue] | None = None
    usage: Usage = Usage()


def _answer(name: str, text: str) -> _Answer:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StepFailed(f"{name!r} wrote no JSON value to stdout: {error}") from None
    if isinstance(value, str):
        return _Answer(output=value)
    if not isinstance(value, dict):
        return _Answer(output=text.strip())
    if not value or not value.keys() <= _Answer.model_fields.keys():
        return _Answer(output=_compact(value), structured=value)
    try:
        answer = _Answer.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise StepFailed(f"{name!r} wrote a wrong {place!r} in its JSON: {reason_of(fault)}") from None
    if not answer.output and answer.structured is not None:
        return answer.model_copy(update={"output": _compact(answer.structured)})
    return answer


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _succeeded(call: StepCall, *, output: str, structured: JsonValue = None) -> StepOutcome:
    spec = call.spec
    return StepOutcome(
        task_id=spec.task_id,
        agent=spec.agent,
        output=output,
        success=True,
        structured=structured,
    )


def _text(name: str, stdout: bytes | bytearray) -> str:
    try:
        return stdout.decode()
    except UnicodeDecodeError as error:
        raise StepFailed(f"{name!r} wrote to stdout what is not UTF-8 text: byte {error.start:,}") from None


def _failure(name: str, program: _Program) -> Exception:
    if program.status < 0:
        ending = f"was ended by signal {_signal_name(-program.status)}"
    else:
        ending = f"exited with status {program.status}"
    stream, said = ("stderr", program.stderr) if program.stderr.strip() else ("stdout", program.stdout)
    quoted = _end_of(said.decode(errors="replace").strip(), program.stderr_dropped if stream == "stderr" else 0)
    text = f"{name!r} {ending}" + (f"; {stream}: {quoted}" if quoted else ", and wrote nothing")
    return RetryableStepError(text) if program.status == TRY_AGAIN_STATUS else StepFailed(text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _end_of(text: str, dropped: int) -> str:
    """The end of a long text, with what is missing before it."""
    if not dropped and len(text) <= STDERR_CHARACTERS:
        return text
    kept = text[-STDERR_CHARACTERS:]
    return f"({dropped + len(text) - len(kept):,} more before) …{kept}"


class _Program(asyncio.SubprocessProtocol):
    """A running program, the only one of its session and process group at its start."""

    def __init__(self, limit: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        """Its end."""
        self.stderr_dropped = 0
        self.is_over_limit = False
        self._limit = limit
        self._transport: asyncio.SubprocessTransport | None = None
        self._exited = asyncio.Event()
        self._over_limit_or_exited = asyncio.Event()
        self._closed = asyncio.Event()

    @classmethod
    async def started(cls, command: tuple[str, ...], *, env: dict[str, str], cwd: Path, limit: int) -> _Program:
        """A program, running. Raises OSError."""
        _, program = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(limit), *command, env=env, cwd=cwd, start_new_session=True
        )
        return program

    @property
    def status(self) -> int:
        """Exit status; the signal that ended it, negative."""
        status = self._running.get_returncode()
        if status is None:
            raise RuntimeError("The program is still running.")
        return status

    @property
    def _running(self) -> asyncio.SubprocessTransport:
        if self._transport is None:
            raise RuntimeError("The program was not started.")
        return self._transport

    async def write(self, data: bytes) -> None:
        """Hand the program its whole stdin. One that does not read it is left alone."""
        stdin = self._running.get_pipe_transport(0)
        if isinstance(stdin, asyncio.WriteTransport):
            stdin.write(data)
            stdin.close()  # after what is buffered

    async def ended(self) -> None:
        """Wait until the program has exited or wrote too much."""
        await self._over_limit_or_exited.wait()

    async def end(self) -> None:
        """End the whole group: asked first where the program still runs, killed where it does not obey."""
        try:
            if not self._exited.is_set():
                self._signal(signal.SIGTERM)
                await self._wait_until_gone()
        finally:
            self._signal(signal.SIGKILL)  # also what an exited program left behind
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PIPE_SECONDS):
                        await self._exited.wait()
                        await self._closed.wait()
            finally:
                self._running.close()

    async def _wait_until_gone(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TERM_SECONDS):
                while self._signal(0):  # noqa: ASYNC110  # no event tells when the last process of a group is gone
                    await asyncio.sleep(GONE_POLL_SECONDS)

    def _signal(self, number: int) -> bool:
        """Signal every process of the group; False where none is left."""
        try:
            os.killpg(self._running.get_pid(), number)
        except ProcessLookupError:
            return False
        except PermissionError:  # a member runs as another user: the others have the signal
            return True
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the program runs."""
        if isinstance(transport, asyncio.SubprocessTransport):
            self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Called by asyncio with what the program wrote."""
        if fd == 1:
            self._take_output(data)
        else:
            self.stderr += data
            dropped = max(0, len(self.stderr) - STDERR_BYTES)
            self.stderr_dropped += dropped
            del self.stderr[:dropped]

    def _take_output(self, data: bytes) -> None:
        if self.is_over_limit or len(self.stdout) + len(data) > self._limit:
            self.is_over_limit = True
            self._over_limit_or_exited.set()
            return
        self.stdout += data

    def process_exited(self) -> None:
        """Called by asyncio when the program itself has exited; its children may live."""
        self._exited.set()
        self._over_limit_or_exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when the program has exited and its pipes are closed."""
        self._closed.set()
