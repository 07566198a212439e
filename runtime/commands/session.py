"""One call of the command: its connection to Temporal, the embedded server and worker of `--local`, its end.

Law: a mistake of the caller or an absent server ends in one sentence and its exit code, never in a traceback.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import click
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from runtime.commands.options import INTERRUPTED, NOT_COMPLETED, UNREACHABLE, Common, Fault
from runtime.connect import connect
from runtime.core import core
from runtime.listing import latest_run, open_runs
from runtime.local import LOCAL_FOLDER, local_server
from runtime.plugin import check_folders, load_workflows, workflow_name
from runtime.settings import Settings
from runtime.signals import asked_to_leave
from runtime.standing import RunNotFound
from runtime.texts import full_stop
from runtime.tuning import collect_seldom
from runtime.watching import NoAnswer, RunReader, until_polled
from workflows import ALL_WORKFLOWS
from workflows.errors import LocalServerFailed, PayloadLocked, PerdureError, ServerUnreachable

LOCAL_DRAIN = timedelta(seconds=2)
# A person waits for their prompt; a step that takes longer goes on from its checkpoint at the next `--local`.

LOCAL_STORE = LOCAL_FOLDER / "blobs"

LATEST = "-"

NAME_ITS_MODULE = "Name that workflow's module with --workflows, or in PERDURE_WORKFLOWS."
WAITS_FOR_ITS_WORKFLOW = f"waits for its workflow. {NAME_ITS_MODULE}"


@dataclass(frozen=True)
class Session:
    """A connected call."""

    client: Client
    settings: Settings
    common: Common
    workflows: tuple[type, ...] = field(default=())
    """The user's own, as `--workflows` and the target name them."""
    ui_url: str | None = None
    """Where the embedded server shows its runs."""
    named: tuple[str, ...] = ()
    """The modules of workflows that this call names, and the next one must name again."""

    @property
    def address(self) -> str:
        """Where Temporal answers."""
        return self.client.service_client.config.target_host

    @property
    def place(self) -> str:
        """The options that lead another call to the same runs, each after a space."""
        modules = [f" --workflows {shlex.quote(name)}" for name in self.named]
        return "".join([self.common.place, *modules])

    def again(self, subcommand: str, run: str) -> str:
        """The command that does something with a run of the same Temporal, as it can be pasted."""
        return f"perdure {subcommand} {shlex.quote(run)}{self.place}"

    def serves(self, workflow_type: str) -> bool:
        """Whether a worker of this call's knows a workflow type."""
        names = {workflow_name(served) for served in (*ALL_WORKFLOWS, *self.workflows)}
        return workflow_type in names or None in names  # None: a dynamic workflow, which takes any type

    async def reader(self, run: str) -> RunReader:
        """Read the run of an id; `-` is the latest one."""
        workflow_id = run
        if run == LATEST:
            latest = await latest_run(self.client, self.settings.task_queue)
            if latest is None:
                raise Fault(
                    f"No run was found on task queue {self.settings.task_queue!r} in namespace "
                    f"{self.client.namespace!r} at {self.address}. Start one with `perdure run`, or name a run."
                )
            workflow_id = latest
        return await RunReader.open(self.client, workflow_id, self.settings, self.workflows)

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[None]:
        """With `--local`, serve the task queue while the block runs; a service has its own workers.

        `options` are those of a Temporal worker.
        """
        if not self.common.is_local or self.common.hosting is None:
            yield
            return
        worker = self.common.hosting.build_worker(
            self.client, self.settings, workflows=self.workflows, graceful_shutdown_timeout=LOCAL_DRAIN, **options
        )
        collect_seldom()
        tell(f"Temporal UI: {self.ui_url}")
        async with worker:
            await until_polled(self.client, self.settings.task_queue)
            yield

    async def tell_open_runs(self) -> None:
        """Name each unfinished run that goes on because this call brings a worker."""
        if self.common.is_local:
            for workflow_id, workflow_type in await open_runs(self.client, self.settings.task_queue):
                is_served = self.serves(workflow_type)
                tell(f"Run {workflow_id!r} ({workflow_type}) {'goes on.' if is_served else WAITS_FOR_ITS_WORKFLOW}")


def execute(
    common: Common, body: Callable[[Session], Awaitable[int]], *, workflows: Sequence[str] = (), **settings: Any
) -> int:
    """Connect, run the body, and give its exit code."""
    with faults():
        return asyncio.run(_execute(common, body, tuple(workflows), settings))


async def _execute(
    common: Common, body: Callable[[Session], Awaitable[int]], workflows: tuple[str, ...], overrides: dict[str, Any]
) -> int:
    settings = Settings.load(**overrides)
    settings = settings.model_copy(update={"workflows": tuple(dict.fromkeys((*settings.workflows, *workflows)))})
    classes = tuple(load_workflows(settings.workflows))
    _quieten(settings, is_serving=common.is_local)
    async with AsyncExitStack() as stack:
        address, namespace, ui_url = common.address, common.namespace, None
        if common.is_local:
            check_folders(settings)  # what is wrong there is said before a server is started
            server = await stack.enter_async_context(local_server())
            address, namespace, ui_url = server.address, server.namespace, server.ui_url
            if settings.blobs is None:
                settings = settings.model_copy(update={"blobs": str(LOCAL_STORE.absolute())})
        client = await connect(settings, address=address, namespace=namespace)
        return await body(Session(client, settings, common, classes, ui_url, workflows))


def _quieten(settings: Settings, *, is_serving: bool) -> None:
    """Keep logs off the view unless somebody asked for them: only errors, on stderr, the SDK's own among them."""
    given = settings.model_fields_set
    if is_serving or given & {"log_level", "library_log_level", "log_format"}:
        from runtime import logs  # loads structlog, which reading a run must not wait for

        level = settings.log_level if "log_level" in given else "error"
        logs.configure(level, settings.log_format, library_level=settings.library_log_level)
    else:
        logging.getLogger().setLevel(logging.ERROR)
    Runtime.set_default(core(), error_if_already_set=False)


@contextmanager
def faults() -> Iterator[None]:
    """Turn what people can mend into a sentence and an exit code."""
    try:
        yield
    except (ServerUnreachable, LocalServerFailed) as error:
        raise Fault(error.message, UNREACHABLE) from error
    except (PerdureError, PayloadLocked, RunNotFound) as error:
        raise Fault(getattr(error, "message", str(error))) from error
    except NoAnswer as error:
        raise Fault(str(error), NOT_COMPLETED) from error
    except RPCError as error:
        if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED):
            raise Fault(f"Temporal stopped answering: {full_stop(error.message)} Try again.", UNREACHABLE) from error
        if error.status is RPCStatusCode.INVALID_ARGUMENT:  # an id or a name that is too long, for one
            raise Fault(full_stop(f"Temporal refused what it was asked: {error.message}")) from error
        raise


@contextmanager
def interruption() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets, so that what was started is ended well.

    The second one leaves at once.
    """
    with asked_to_leave(lambda _number: os._exit(INTERRUPTED)) as asked:
        yield asked


def tell(line: str) -> None:
    """A line for people, out of the way of what programs read."""
    click.echo(line, err=True)


def print_json(value: Any) -> None:
    """One JSON value on a line."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout.isatty()
