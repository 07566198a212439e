"""What every client, worker and Replayer of perdure needs from Temporal, in one place.

Law: nothing else sets the data converter, the sandbox, the failure types, or what is served besides the user's own.
On a Replayer nothing of the world is touched: no agents.toml, and of the blob store only what its histories refer to.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pydantic
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
)
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    Replayer,
    ReplayerConfig,
    Worker,
    WorkerConfig,
    WorkflowReplayResult,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from runtime.guard import GuardInterceptor
from runtime.interruption import InterruptibleRunner
from runtime.sealed import no_storage
from runtime.settings import Settings, decode_key
from runtime.telemetry import flush, trace, tracing
from workflows.errors import SettingsRejected

if TYPE_CHECKING:
    from activities.blobs import BlobStore
    from activities.registry import Registry

PASSED_THROUGH = (
    # Ours: pure by workflows/ruff.toml, or without effects on import. Imported anew for each run they cost 44 ms.
    "workflows",
    "runtime",
    "activities",
    "worker",
    # Without effects on import, and some (pydantic_core, cryptography) cannot be loaded twice.
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "structlog",
    "rich",
    "jsonschema",
    "cryptography",
    "opentelemetry",
)

HEARTBEAT_THROTTLE = timedelta(milliseconds=500)
# A step's progress and checkpoint references wait at most this long in the worker; the SDK would hold them for 80 % of
# the heartbeat timeout, and lose them with the process.

STICKY_TIMEOUT = timedelta(seconds=1)
# How long the runs of a killed worker wait for it before another one takes them; the SDK's 10 s is felt as a hang.

WORKER_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Worker).parameters.items()}

ReplayHistories = Callable[
    [Replayer, AsyncIterator[WorkflowHistory]], AbstractAsyncContextManager[AsyncIterator[WorkflowReplayResult]]
]


class AgentThreads(ThreadPoolExecutor):
    """The threads of `def` agents; ended with the worker that they were made for."""


class PerdurePlugin(SimplePlugin):
    """Makes a client, a worker or a Replayer one of perdure's.

    Put it on the client; a worker made from that client then serves perdure's workflows and, unless `activities` is
    false, the agents of `registry` (default: the settings' agents.toml, read when the worker is made). `settings`
    default to the environment's.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        registry: Registry | None = None,
        workflows: Sequence[type] = (),
        activities: bool = True,
    ) -> None:
        self.settings = settings if settings is not None else Settings.load()
        self._registry = registry
        self._own_workflows = tuple(workflows)
        self._serves_agents = activities
        super().__init__(
            "perdure.PerdurePlugin",
            data_converter=self._converter,
            workflows=self._workflows,
            workflow_runner=_pass_through,
            interceptors=[GuardInterceptor()],
            # Never `Exception`: that would fail a run on nondeterminism, where it should wait for the fix.
            workflow_failure_exception_types=_with(pydantic.ValidationError),
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """See base class. What the user has set stays; defaults of the SDK become perdure's."""
        config = super().configure_worker(config)
        for name, ours in (
            ("max_heartbeat_throttle_interval", HEARTBEAT_THROTTLE),
            ("sticky_queue_schedule_to_start_timeout", STICKY_TIMEOUT),
        ):
            _prefer(config, name, ours)
        if config.get("tuner") is None:
            config["max_concurrent_activities"] = (
                config.get("max_concurrent_activities") or self.settings.max_concurrent_steps
            )
            config["max_concurrent_workflow_tasks"] = (
                config.get("max_concurrent_workflow_tasks") or self.settings.max_concurrent_workflow_tasks
            )
        if config["client"].config(active_config=True)["data_converter"].external_storage is not None:
            _use_storage(config)
        if self._serves_agents and not config.get("no_remote_activities"):
            serve_agents(config, self.settings, self._registry)
        trace(config, self.settings)
        return config

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """See base class."""
        config = super().configure_replayer(config)
        config["data_converter"] = self._stored(config["data_converter"], only_reads=True)
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """See base class."""
        try:
            await super().run_worker(worker, next)
        finally:
            config = worker.config(active_config=True)
            await _close_agents(config)
            await flush()
            threads = config.get("activity_executor")
            if isinstance(threads, AgentThreads):
                threads.shutdown(wait=False, cancel_futures=True)  # a `def` agent that hangs must not keep the worker

    @asynccontextmanager
    async def run_replayer(
        self, replayer: Replayer, histories: AsyncIterator[WorkflowHistory], next: ReplayHistories
    ) -> AsyncIterator[AsyncIterator[WorkflowReplayResult]]:
        """See base class. A history is replayed under the id that its run had: those of its children begin with it."""
        async with super().run_replayer(replayer, _under_their_ids(histories), next) as results:
            yield results

    def _converter(self, existing: DataConverter | None) -> DataConverter:
        existing = existing or DataConverter.default
        converter = existing.payload_converter_class
        if converter is not DefaultPayloadConverter and not issubclass(converter, PydanticPayloadConverter):
            raise SettingsRejected(
                f"The client has the payload converter {converter.__name__!r}, and perdure stores pydantic models. "
                "Derive it from temporalio.contrib.pydantic.PydanticPayloadConverter, or leave it out."
            )
        if converter is DefaultPayloadConverter:
            existing = replace(existing, payload_converter_class=PydanticPayloadConverter)
        return self._stored(self._encrypted(existing))

    def _encrypted(self, existing: DataConverter) -> DataConverter:
        if self.settings.codec_key is None:
            return existing
        from runtime.codec import EncryptionCodec  # loads cryptography, which few need

        if existing.payload_codec is not None and not isinstance(existing.payload_codec, EncryptionCodec):
            raise SettingsRejected(
                f"The client has the payload codec {type(existing.payload_codec).__name__!r}, and PERDURE_CODEC_KEY "
                "asks for another one. Leave one of them out."
            )
        return replace(
            existing,
            payload_codec=EncryptionCodec(*codec_keys(self.settings), stored_from=self._stored_from),
            # A failure's message and stack trace may quote what a payload holds.
            failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
        )

    def _stored(self, existing: DataConverter, *, only_reads: bool = False) -> DataConverter:
        if self.settings.blobs is None:
            return replace(existing, external_storage=no_storage()) if only_reads else existing
        from runtime.storage import with_storage  # loads what reading a run without a store must not wait for

        return with_storage(existing, self.settings, only_reads=only_reads)

    @property
    def _stored_from(self) -> int | None:
        return None if self.settings.blobs is None else self.settings.payload_threshold_bytes

    def _workflows(self, existing: Sequence[type] | None) -> list[type]:
        from workflows import ALL_WORKFLOWS

        named = load_workflows(self.settings.workflows)
        return list(dict.fromkeys((*(existing or ()), *self._own_workflows, *named, *ALL_WORKFLOWS)))


def _prefer(config: WorkerConfig, name: str, ours: Any) -> None:
    """Set an option that the user has left at the SDK's default."""
    if config.get(name, WORKER_DEFAULTS[name]) == WORKER_DEFAULTS[name]:
        config[name] = ours  # type: ignore[literal-required]


def _use_storage(config: WorkerConfig) -> None:
    from runtime.storage import PAYLOADS_AT_ONCE, StorageInterceptor

    _prefer(config, "max_workflow_task_external_storage_concurrency", PAYLOADS_AT_ONCE)
    # Before the others: what it makes of an answer is not for them.
    config["interceptors"] = [StorageInterceptor(), *config.get("interceptors", ())]


def codec_keys(settings: Settings) -> list[bytes]:
    """The keys of the settings: the one that seals first, then those that only open."""
    keys = (settings.codec_key, *settings.codec_keys_old)
    return [decode_key(key) for key in keys if key is not None]


async def _under_their_ids(histories: AsyncIterator[WorkflowHistory]) -> AsyncIterator[WorkflowHistory]:
    """A recorded history is named by whoever reads it, after its file most often."""
    async for history in histories:
        own_id = history.events[0].workflow_execution_started_event_attributes.workflow_id if history.events else ""
        yield replace(history, workflow_id=own_id or history.workflow_id)


def serve_agents(config: WorkerConfig, settings: Settings, registry: Registry | None = None) -> None:
    """Add the activities of a registry's agents and tools, and their threads, unless the worker has them already.

    Raises `AgentsRejected` or `SettingsRejected` where they cannot be served.
    """
    from activities.actions import ActionActivities
    from activities.agents import AgentActivities
    from activities.deputy import Deputy
    from activities.giving_way import give_way
    from activities.seen import claim_unseen
    from activities.verifying import verify_graph

    activities = list(config.get("activities") or ())
    if any(isinstance(getattr(activity, "__self__", None), AgentActivities) for activity in activities):
        return
    store = check_folders(settings)
    registry = load_registry(settings) if registry is None else registry
    slots = config.get("max_concurrent_activities") or settings.max_concurrent_steps
    threads = config.get("activity_executor")
    if not isinstance(threads, ThreadPoolExecutor):  # a pool of processes cannot hold a step's context
        threads = AgentThreads(slots, thread_name_prefix="perdure-agent")
    if config.get("activity_executor") is None:
        config["activity_executor"] = threads
    deputy, folder = Deputy(), settings.workspace
    agents = AgentActivities(
        registry, store, threads=threads, workspace=folder, tracing=tracing(settings), deputy=deputy
    )
    actions = ActionActivities(registry.tools, registry.policies, threads=threads, workspace=folder, deputy=deputy)
    own = (agents.run_agent_step, actions.run_action, claim_unseen, verify_graph, give_way)
    config["activities"] = [*activities, *own]


async def _close_agents(config: WorkerConfig) -> None:
    """End what the agents of a worker had opened."""
    from activities.agents import AgentActivities

    for served in config.get("activities") or ():
        if isinstance(owner := getattr(served, "__self__", None), AgentActivities):
            await owner.close()


def check_folders(settings: Settings) -> BlobStore | None:
    """The settings' store for checkpoints, where there is one; with a codec key, one that seals them.

    Raises `SettingsRejected` where it or the workspace cannot be used.
    """
    from activities.blobs import open_store

    if not settings.workspace.is_dir():
        raise SettingsRejected(
            f"PERDURE_WORKSPACE is {str(settings.workspace)!r}, and there is no such folder. Make it, or name another."
        )
    store = open_store(settings.blobs)
    if store is None or settings.codec_key is None:
        return store
    from runtime.codec import EncryptionCodec, SealedStore

    return SealedStore(store, EncryptionCodec(*codec_keys(settings)))


def load_registry(settings: Settings) -> Registry:
    """The agents of the settings' agents.toml; none where no file is named and ./agents.toml does not exist.

    Functions are looked for in the current folder too.
    """
    from activities.registry import Registry

    _find_modules_here()
    if settings.agents is None:
        return Registry(default_model=settings.model)
    return Registry.load(settings.agents, default_model=settings.model, workspace=settings.workspace)


def load_workflows(names: Iterable[str]) -> list[type]:
    """The workflow classes that names of the form `module` or `module:Class` stand for, in their order.

    Modules are looked for in the current folder too. Raises `SettingsRejected`, naming what could not be found.
    """
    _find_modules_here()
    return list(dict.fromkeys(found for name in names for found in _load(name)))


def _find_modules_here() -> None:
    """Let modules of the current folder be found, behind perdure's own: a folder of theirs must not shadow ours."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def workflow_name(candidate: type) -> str | None:
    """The workflow type under which a class is served; None for a dynamic workflow, which serves any."""
    return workflow._Definition.must_from_class(candidate).name


def _load(name: str) -> list[type]:
    module_name, _, class_name = name.partition(":")
    module = _import(module_name, name)
    defined = [value for value in vars(module).values() if _is_workflow(value)]
    own = [value for value in defined if value.__module__ == module.__name__]
    if not class_name:
        if not own:
            raise SettingsRejected(
                f"The module {module_name!r} of the setting 'workflows' defines no workflow. "
                "Name the module that has the class under @workflow.defn."
            )
        return own
    found = getattr(module, class_name, None)
    if not _is_workflow(found):
        what = "is not a workflow (a class under @workflow.defn)" if found is not None else "is not there"
        known = ", ".join(repr(value.__name__) for value in defined) or "none"
        raise SettingsRejected(
            f"The setting 'workflows' names {name!r}, and {class_name!r} {what}. "
            f"The workflows of {module_name!r} are: {known}."
        )
    return [found]


def _import(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error  # the module is there; something that it imports is not
        raise SettingsRejected(
            f"The setting 'workflows' names {name!r}, and there is no module {error.name!r}, neither in "
            f"{str(Path.cwd())!r} nor installed. Name it as 'module' or 'module:Class'."
        ) from None
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> SettingsRejected:
    return SettingsRejected(
        f"The setting 'workflows' names {name!r}, which cannot be imported ({type(error).__name__}: {error})."
    )


def _is_workflow(value: Any) -> TypeGuard[type]:
    return inspect.isclass(value) and workflow._Definition.from_class(value) is not None


def _pass_through(existing: WorkflowRunner | None) -> WorkflowRunner:
    if existing is not None and not isinstance(existing, SandboxedWorkflowRunner):
        return existing  # the user runs without the sandbox
    sandbox = existing or SandboxedWorkflowRunner()
    restrictions = sandbox.restrictions.with_passthrough_modules(*PASSED_THROUGH)
    if type(sandbox) is SandboxedWorkflowRunner:  # of a class of the user's it would undo what that does
        return InterruptibleRunner(restrictions=restrictions, runner_class=sandbox.runner_class)
    return replace(sandbox, restrictions=restrictions)


def _with(added: type[BaseException]) -> Callable[[Sequence[type[BaseException]] | None], list[type[BaseException]]]:
    return lambda existing: list(dict.fromkeys((*(existing or ()), added)))
