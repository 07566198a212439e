"""The process that serves: `build_worker` makes the worker, `main` connects, serves and drains.

Exit codes: 0 drained after SIGTERM or SIGINT, 2 wrong usage or settings (nothing was served), 3 Temporal was lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import structlog
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import PrometheusConfig, Runtime
from temporalio.worker import Worker, WorkerConfig, WorkerDeploymentConfig

import workflows as perdure_workflows
from runtime import logs
from runtime.connect import connect, is_local
from runtime.core import core
from runtime.health import Health, answering
from runtime.plugin import PerdurePlugin, check_folders, load_registry, load_workflows, serve_agents, workflow_name
from runtime.settings import Settings
from runtime.signals import asked_to_leave
from runtime.tuning import collect_seldom, pollers, rate, slots
from workflows.errors import PerdureError, ServerUnreachable, SettingsRejected

if TYPE_CHECKING:
    from activities.registry import Registry

DRAINED, REJECTED, LOST = 0, 2, 3

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# Between attempts to reach a server that is not up yet: soon enough at first, then without flooding it or the log.

LEAVE_SECONDS = 10.0
# After the drain, activities that were cancelled get this long to say so; what is left, another worker takes over.

SLOT_NUMBERS = {"max_concurrent_activities", "max_concurrent_workflow_tasks"}
# The SDK takes these or a tuner, so whoever gives one of them gets fixed numbers for the other too.

CODE_ID_LENGTH = 16
# Tells the builds of one team apart; every workflow task in a history carries it.

log = structlog.get_logger("perdure.worker")


def build_worker(
    client: Client,
    settings: Settings,
    *,
    registry: Registry | None = None,
    workflows: Sequence[type] = (),
    **worker_options: Any,
) -> Worker:
    """A worker for perdure's workflows, the settings' and the given ones, and for the agents of a registry.

    Without a registry the settings' agents.toml is read. `worker_options` are those of `temporalio.worker.Worker`, and
    win. Raises `SettingsRejected` or `AgentsRejected` where it could not serve.
    """
    if not any(isinstance(plugin, PerdurePlugin) for plugin in client.config()["plugins"]):
        raise SettingsRejected(
            "The client has no PerdurePlugin, so it would store what no workflow can read. "
            "Make it with `runtime.connect`, or give it plugins=[PerdurePlugin()]."
        )
    named = [*worker_options.pop("workflows", ()), *workflows, *load_workflows(settings.workflows)]
    config: WorkerConfig = {
        "client": client,
        "task_queue": settings.task_queue,
        "workflows": list(dict.fromkeys(named)),
        "graceful_shutdown_timeout": timedelta(seconds=settings.drain_seconds),
        **({} if "tuner" in worker_options else slots(settings, is_fixed=bool(SLOT_NUMBERS & worker_options.keys()))),
        **pollers(settings),
        **rate(settings),
        **_versioning(settings),
        **worker_options,  # type: ignore[typeddict-item]
    }
    if not config.get("deployment_config"):
        config.setdefault("build_id", settings.build_id or _code_id(config["workflows"]))
    serve_agents(config, settings, registry)
    try:
        return Worker(**config)
    except (ValueError, RuntimeError) as error:  # a workflow class that the SDK does not take, or two of one name
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise SettingsRejected(f"The worker cannot serve its workflows ({reason}).") from error


def _versioning(settings: Settings) -> WorkerConfig:
    if settings.deployment_name is None or settings.build_id is None:
        return {}
    return {
        "deployment_config": WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(settings.deployment_name, settings.build_id),
            use_worker_versioning=True,
            # A run stays with the code that it began with; long waits move on when they continue as new.
            default_versioning_behavior=VersioningBehavior.PINNED,
        )
    }


def _code_id(named: Sequence[type]) -> str:
    """What histories call this code where nobody named it: a hash of perdure's workflow code and of the given modules.

    For a reset by build id. The SDK would read every loaded module for it, 0.3 s at each start.
    """
    files = {Path(file) for one in named if (file := getattr(sys.modules.get(one.__module__), "__file__", None))}
    files |= set(Path(perdure_workflows.__file__).parent.rglob("*.py"))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:CODE_ID_LENGTH]


@click.command(name="perdure-worker", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--agents", type=click.Path(path_type=Path), help="The agents.toml to serve (PERDURE_AGENTS).")
@click.option("--workflows", multiple=True, help="A module, or module:Class, whose workflows to serve; repeatable.")
@click.option("--task-queue", help="The task queue to serve (PERDURE_TASK_QUEUE).")
@click.option("--address", help="Where Temporal is, as host:port (TEMPORAL_ADDRESS).")
@click.option("--namespace", help="The namespace to serve (TEMPORAL_NAMESPACE).")
@click.option("--blobs", help="The folder or s3://bucket/prefix of transcripts and large payloads (PERDURE_BLOBS).")
def command(
    agents: Path | None,
    workflows: tuple[str, ...],
    task_queue: str | None,
    address: str | None,
    namespace: str | None,
    blobs: str | None,
) -> None:
    """Serve perdure's workflows and agents until SIGTERM or SIGINT, then drain."""
    try:
        settings = Settings.load(agents=agents, workflows=workflows or None, task_queue=task_queue, blobs=blobs)
        logs.configure(settings.log_level, settings.log_format, library_level=settings.library_log_level)
        sys.exit(asyncio.run(_serve(settings, address, namespace)))
    except PerdureError as error:
        click.echo(str(error), err=True)  # which names the type
        sys.exit(LOST if isinstance(error, ServerUnreachable) else REJECTED)


async def _serve(settings: Settings, address: str | None, namespace: str | None) -> int:
    """Serve until told to leave; the exit code."""
    with asked_to_leave(_leave_at_once) as leave:
        return await _serve_until(leave, settings, address, namespace)


def _leave_at_once(number: signal.Signals) -> None:
    log.warning("leaving at once", signal=number.name)
    _leave(128 + number)  # as a shell reports a process that a signal ended


async def _serve_until(leave: asyncio.Event, settings: Settings, address: str | None, namespace: str | None) -> int:
    registry = load_registry(settings)
    load_workflows(settings.workflows)  # what is wrong there is said before waiting for a server
    check_folders(settings)
    plugin = PerdurePlugin(settings, registry=registry)
    runtime = _runtime(settings)
    health = Health()
    async with answering(settings.health_address, health):
        connecting = asyncio.create_task(_connect(settings, plugin, address, namespace, runtime))
        await _first(connecting, leave)
        if not connecting.done():
            connecting.cancel()
            return DRAINED
        worker = build_worker(await connecting, settings, registry=registry)
        collect_seldom()
        _announce(worker, settings, registry)
        return await _run(worker, settings, leave, health)


async def _first(work: asyncio.Task[Any], leave: asyncio.Event) -> None:
    """Wait until the work ends or the process is told to leave."""
    leaving = asyncio.create_task(leave.wait())
    await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()


async def _connect(
    settings: Settings, plugin: PerdurePlugin, address: str | None, namespace: str | None, runtime: Runtime
) -> Client:
    """A client, however long the server takes to come up. Wrong configuration is raised at once."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await connect(settings, plugins=[plugin], address=address, namespace=namespace, runtime=runtime)
        except ServerUnreachable as error:
            log.warning("waiting for Temporal", reason=error.message, next_attempt_seconds=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _run(worker: Worker, settings: Settings, leave: asyncio.Event, health: Health) -> int:
    running = asyncio.create_task(worker.run())
    health.serves(worker.client)
    await _first(running, leave)
    health.drains()
    if not running.done():
        log.info("draining", seconds=settings.drain_seconds)
        stopping = asyncio.create_task(worker.shutdown())
        await asyncio.wait({running}, timeout=settings.drain_seconds + LEAVE_SECONDS)
        stopping.cancel()
    if not running.done():
        log.warning("left before every step had ended; another worker takes them over")
        return DRAINED
    if running.exception() is not None:
        log.error("the worker lost Temporal", exc_info=running.exception())
        return LOST
    log.info("drained")
    return DRAINED


def _runtime(settings: Settings) -> Runtime:
    """The SDK's core; its metrics go to Prometheus where an address is set."""
    address = settings.metrics_address
    try:
        return core(None if address is None else PrometheusConfig(bind_address=address))
    except (RuntimeError, ValueError) as error:
        raise SettingsRejected(f"PERDURE_METRICS_ADDRESS is {address!r}, which cannot be served ({error}).") from None


def _announce(worker: Worker, settings: Settings, registry: Registry) -> None:
    """Say what is served."""
    if (settings.deployment_name is None) != (settings.build_id is None):
        log.warning(
            "worker versioning is off: TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID must both be set, "
            "and one of them is"
        )
    served = worker.config(active_config=True)["workflows"]
    address = worker.client.service_client.config.target_host
    log.info(
        "serving",
        address=address,
        namespace=worker.client.namespace,
        task_queue=worker.task_queue,
        workflows=sorted(workflow_name(served_class) or "(any)" for served_class in served),
        agents=sorted(registry.names()),
        store=settings.blobs,
        encrypted=settings.codec_key is not None,
        build_id=settings.build_id if settings.is_versioned else None,
    )
    if settings.blobs is None and not is_local(address):
        log.warning(
            "no store: checkpoints over 3 KB are not kept, so after a crash such steps begin anew. "
            "Set PERDURE_BLOBS to a folder or a bucket that every worker reaches"
        )


def main() -> NoReturn:
    """Run the `perdure-worker` command."""
    code = 1  # what Python itself gives for an error that nobody expected
    try:
        command.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else code
    except BaseException:  # noqa: BLE001 - shown, then the process leaves with the status that says so
        traceback.print_exc()
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process with this status.

    The interpreter's own exit can abort in the SDK (its issue 300), or wait for the thread of a `def` agent that hangs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
