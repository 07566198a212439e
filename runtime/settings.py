"""What an operator may set, by environment variable or command-line option.

Law: a wrong or unknown setting is refused before anything starts, and no secret is ever quoted.
Loads no SDK: the command reads its settings before it knows whether it needs one.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)

PREFIX = "PERDURE_"

DEFAULT_AGENTS = Path("agents.toml")

DEFAULT_MAX_CONCURRENT_STEPS = 100
# A step mostly waits for a model or a command, so many fit one worker; each `def` agent among them holds a thread.

DEFAULT_MAX_CONCURRENT_WORKFLOW_TASKS = 10
# Workflow code shares one interpreter, so more at once end no sooner; but each then takes longer by the clock, and the
# SDK fails an activation that takes 2 s. Ten of 0.2 s each stay below that.

DEFAULT_PAYLOAD_THRESHOLD_BYTES = 128 * 1024
# From here on a payload goes to the blob store, if there is one. A history of Temporal's 50 MB holds 400 of the largest
# that stay in it; and below, fetching one (30 ms from S3) takes longer than all that Temporal does for a step.
SMALLEST_THRESHOLD_BYTES = 8_192
# Heartbeat details take 4 KB, and stay in Temporal.
LARGEST_THRESHOLD_BYTES = 1_900_000
# What a history takes: `wire.MAX_PAYLOAD_BYTES`.

DEFAULT_DRAIN_SECONDS = 30.0
# What a container runtime commonly leaves between SIGTERM and SIGKILL.

KEY_BYTES = 32
# AES-256.

QUOTED_LENGTH = 200
# A value quoted in a message is cut here.


def _default_task_queue() -> str:
    from workflows.wire import TASK_QUEUE  # loads the SDK's errors, which a help text must not wait for

    return TASK_QUEUE


def _split(value: Any) -> Any:
    """The parts of a comma-separated text."""
    if not isinstance(value, str):
        return value
    return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)


def _is_key(value: SecretStr) -> SecretStr:
    decode_key(value)
    return value


def decode_key(key: SecretStr) -> bytes:
    """The 32 bytes of a key. Raises ValueError without quoting the key."""
    try:
        decoded = base64.b64decode(key.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is no base64 text") from None
    if len(decoded) != KEY_BYTES:
        raise ValueError(f"it holds {len(decoded)} bytes")
    return decoded


Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$")]
Key = Annotated[SecretStr, AfterValidator(_is_key)]
LowerCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Settings(BaseModel):
    """How this process runs. Each description says what the setting takes.

    The variable of a field is `PERDURE_<FIELD>`, except for the two that Temporal itself names (`TEMPORAL_VARIABLES`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_queue: str = Field(
        default_factory=_default_task_queue,
        min_length=1,
        max_length=1000,  # Temporal's own limit
        description="the name of a task queue",
    )
    agents: Path | None = Field(default=None, description="the path of an agents.toml")
    workflows: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        default=(), description="workflows as 'module' or 'module:Class', separated by commas"
    )
    workspace: Path = Field(
        default_factory=Path.cwd, description="the path of the folder that agents and tools work in"
    )
    blobs: str | None = Field(
        default=None,
        min_length=1,
        description="the folder, or the s3://bucket/prefix, that keeps transcripts and large payloads",
    )
    payload_threshold_bytes: int = Field(
        default=DEFAULT_PAYLOAD_THRESHOLD_BYTES,
        ge=SMALLEST_THRESHOLD_BYTES,
        le=LARGEST_THRESHOLD_BYTES,
        description=f"a whole number from {SMALLEST_THRESHOLD_BYTES:,} to {LARGEST_THRESHOLD_BYTES:,}",
    )
    model: str | None = Field(default=None, min_length=1, description="the name of the default model")
    max_concurrent_steps: PositiveInt = Field(
        default=DEFAULT_MAX_CONCURRENT_STEPS, description="a whole number of at least 1"
    )
    max_concurrent_workflow_tasks: int = Field(
        default=DEFAULT_MAX_CONCURRENT_WORKFLOW_TASKS,
        ge=2,  # the SDK serves its sticky and its normal queue at once
        description="a whole number of at least 2",
    )
    max_steps_per_second: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="a number above 0, for all workers of the task queue together",
    )
    max_cpu: Share | None = Field(default=None, description="a share of the processors, above 0 and at most 1")
    max_memory: Share | None = Field(default=None, description="a share of the memory, above 0 and at most 1")
    max_pollers: int | None = Field(
        default=None,
        ge=2,  # as above
        le=1_000,  # a frontend of Temporal holds 1,200 open requests of one namespace, those of all workers together
        description="a whole number from 2 to 1000",
    )
    metrics_address: Address | None = Field(
        default=None, description="an address to serve Prometheus on, as 'host:port'"
    )
    health_address: Address | None = Field(
        default=None, description="an address to answer health checks on, as 'host:port'"
    )
    trace_content: bool = Field(
        default=False, description="1 puts prompts, answers and what tools are called with into traces, 0 does not"
    )
    codec_key: Key | None = Field(default=None, description="the base64 text of 32 random bytes")
    codec_keys_old: Annotated[tuple[Key, ...], BeforeValidator(_split)] = Field(
        default=(), description="earlier codec keys, each the base64 text of 32 bytes, separated by commas"
    )
    drain_seconds: NonNegativeFloat = Field(
        default=DEFAULT_DRAIN_SECONDS, allow_inf_nan=False, description="a number of seconds, 0 or more"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = Field(
        default="info", description="'debug', 'info', 'warning' or 'error'"
    )
    library_log_level: Annotated[Literal["debug", "info", "warning", "error"] | None, LowerCase] = Field(
        default=None, description="'debug', 'info', 'warning' or 'error'"
    )
    log_format: Annotated[Literal["auto", "json", "console"], LowerCase] = Field(
        default="auto", description="'auto', 'json' or 'console'"
    )
    traceback: bool = Field(default=False, description="1 shows where a fault of perdure's own is, 0 does not")
    deployment_name: str | None = Field(default=None, min_length=1, description="the name of a worker deployment")
    build_id: str | None = Field(default=None, min_length=1, description="the build id of this worker")

    @property
    def is_versioned(self) -> bool:
        """Whether workers take part in worker versioning: both of Temporal's variables are set."""
        return self.deployment_name is not None and self.build_id is not None

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """The settings of an environment (default: this process's); an override that is not None wins.

        Raises `SettingsRejected`, naming the variable or option, its value and what it takes.
        An empty variable counts as absent. Without an `agents` setting, ./agents.toml is taken if it exists.
        """
        environ = os.environ if environ is None else environ
        _refuse_unknown(environ)
        given = {field: environ[name] for field, name in VARIABLES.items() if environ.get(name)}
        values = given | {field: value for field, value in overrides.items() if value is not None}
        if "agents" not in values and DEFAULT_AGENTS.is_file():
            values["agents"] = DEFAULT_AGENTS
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            _refuse(error, overrides)


TEMPORAL_VARIABLES = {"deployment_name": "TEMPORAL_DEPLOYMENT_NAME", "build_id": "TEMPORAL_WORKER_BUILD_ID"}
# Temporal's own conventions, so that its worker controller sets both for us.

VARIABLES = {field: TEMPORAL_VARIABLES.get(field, PREFIX + field.upper()) for field in Settings.model_fields}
"""The environment variable of each setting."""

STEP_VARIABLES = frozenset({"PERDURE_TASK_ID", "PERDURE_IDEMPOTENCY_KEY", "PERDURE_ATTEMPT"})
# No settings: a command agent's program finds them in its environment, and may call `perdure` itself.

SECRETS = frozenset({"codec_key", "codec_keys_old"})


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = sorted(name.removeprefix(PREFIX) for name in VARIABLES.values() if name.startswith(PREFIX))
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.removeprefix(PREFIX) in known or name in STEP_VARIABLES:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
        all_of_them = ", ".join(PREFIX + each for each in known)
        remedy = f"Did you mean {PREFIX + near[0]!r}?" if near else f"The variables are {all_of_them}."
        _reject(f"The environment variable {name!r} is unknown. {remedy}")


def _refuse(error: ValidationError, overrides: Mapping[str, Any]) -> NoReturn:
    """Say the first thing that is wrong, in one sentence for people."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = str(first["loc"][0])
    if field not in Settings.model_fields:
        near = difflib.get_close_matches(field, Settings.model_fields, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"The settings are {', '.join(Settings.model_fields)}."
        _reject(f"The setting {field!r} is unknown. {remedy}")
    name = f"--{field.replace('_', '-')}" if overrides.get(field) is not None else VARIABLES[field]
    takes = Settings.model_fields[field].description
    _reject(f"{name} {_found(field, first)}, and takes {takes}.")


def _found(field: str, error: Any) -> str:
    """The value as found; of a secret only what is wrong with it."""
    if field in SECRETS:
        reason = str(error["msg"]).removeprefix("Value error, ") if error["type"] == "value_error" else "it is no text"
        return f"cannot be used ({reason})"
    quoted = repr(error["input"])
    return f"is {quoted if len(quoted) <= QUOTED_LENGTH else f'{quoted[:QUOTED_LENGTH]}… ({len(quoted):,} characters)'}"


def _reject(message: str) -> NoReturn:
    from workflows.errors import SettingsRejected  # loads the SDK's errors; only a refusal waits for them

    raise SettingsRejected(message) from None
