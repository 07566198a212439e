"""What an operator may set, and what is said about a setting that is wrong."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import VARIABLES, Settings
from workflows.errors import SettingsRejected

KEY = base64.b64encode(bytes(range(32))).decode()
SHORT_KEY = base64.b64encode(bytes(31)).decode()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_have_defaults_that_serve(empty_folder: Path) -> None:
    """Without a variable everything is at its default."""
    assert Settings.load({}).model_dump() == {
        "task_queue": "perdure",
        "agents": None,
        "workflows": (),
        "workspace": empty_folder,
        "blobs": None,
        "payload_threshold_bytes": 131072,
        "model": None,
        "max_concurrent_steps": 100,
        "max_concurrent_workflow_tasks": 10,
        "max_cpu": None,
        "max_memory": None,
        "max_pollers": None,
        "max_steps_per_second": None,
        "metrics_address": None,
        "health_address": None,
        "trace_content": False,
        "codec_key": None,
        "codec_keys_old": (),
        "drain_seconds": 30.0,
        "log_level": "info",
        "library_log_level": None,
        "log_format": "auto",
        "traceback": False,
        "deployment_name": None,
        "build_id": None,
    }


def test_settings_read_every_variable(empty_folder: Path) -> None:
    """Each field has its variable, and lists are separated by commas."""
    environ = {
        "PERDURE_TASK_QUEUE": "night",
        "PERDURE_AGENTS": "my.toml",
        "PERDURE_WORKFLOWS": "app.flows:Audit, app.more",
        "PERDURE_WORKSPACE": "here",
        "PERDURE_BLOBS": "blobs",
        "PERDURE_PAYLOAD_THRESHOLD_BYTES": "100000",
        "PERDURE_MODEL": "openai:gpt-5-mini",
        "PERDURE_MAX_CONCURRENT_STEPS": "7",
        "PERDURE_MAX_CONCURRENT_WORKFLOW_TASKS": "3",
        "PERDURE_MAX_CPU": "0.9",
        "PERDURE_MAX_MEMORY": "0.75",
        "PERDURE_MAX_POLLERS": "20",
        "PERDURE_MAX_STEPS_PER_SECOND": "2.5",
        "PERDURE_METRICS_ADDRESS": "0.0.0.0:9464",
        "PERDURE_HEALTH_ADDRESS": "[::]:8086",
        "PERDURE_TRACE_CONTENT": "1",
        "PERDURE_DRAIN_SECONDS": "1.5",
        "PERDURE_LOG_LEVEL": "DEBUG",
        "PERDURE_LIBRARY_LOG_LEVEL": "Info",
        "PERDURE_LOG_FORMAT": "json",
        "PERDURE_TRACEBACK": "1",
        "TEMPORAL_DEPLOYMENT_NAME": "agents",
        "TEMPORAL_WORKER_BUILD_ID": "b7",
        "HOME": "/nowhere",
    }
    loaded = Settings.load(environ).model_dump(exclude={"codec_key", "codec_keys_old"})
    assert loaded == {
        "task_queue": "night",
        "agents": Path("my.toml"),
        "workflows": ("app.flows:Audit", "app.more"),
        "workspace": Path("here"),
        "blobs": "blobs",
        "payload_threshold_bytes": 100_000,
        "model": "openai:gpt-5-mini",
        "max_concurrent_steps": 7,
        "max_concurrent_workflow_tasks": 3,
        "max_cpu": 0.9,
        "max_memory": 0.75,
        "max_pollers": 20,
        "max_steps_per_second": 2.5,
        "metrics_address": "0.0.0.0:9464",
        "health_address": "[::]:8086",
        "trace_content": True,
        "drain_seconds": 1.5,
        "log_level": "debug",
        "library_log_level": "info",
        "log_format": "json",
        "traceback": True,
        "deployment_name": "agents",
        "build_id": "b7",
    }


def test_settings_take_the_folders_agents_toml(empty_folder: Path) -> None:
    """./agents.toml is served where no other file is named, and only if it exists."""
    (empty_folder / "agents.toml").touch()
    assert Settings.load({}).agents == Path("agents.toml")
    assert Settings.load({"PERDURE_AGENTS": "other.toml"}).agents == Path("other.toml")


def test_settings_prefer_an_override_and_ignore_one_that_is_none() -> None:
    """A command-line option wins; one that was not given changes nothing."""
    environ = {"PERDURE_TASK_QUEUE": "night", "PERDURE_BLOBS": ""}
    loaded = Settings.load(environ, task_queue="day", agents=None)
    assert (loaded.task_queue, loaded.agents, loaded.blobs) == ("day", None, None)


def test_settings_ignore_what_a_command_agent_is_told() -> None:
    """The program of a command agent finds its step's names in its environment, and may call `perdure`."""
    environ = {"PERDURE_TASK_ID": "t", "PERDURE_IDEMPOTENCY_KEY": "k", "PERDURE_ATTEMPT": "1"}
    assert Settings.load(environ) == Settings.load({})


@pytest.mark.parametrize(
    ("environ", "overrides", "message"),
    [
        pytest.param(
            {"PERDURE_MAX_CONCURRENT_STEPS": "many"},
            {},
            "PERDURE_MAX_CONCURRENT_STEPS is 'many', and takes a whole number of at least 1.",
            id="no number",
        ),
        pytest.param(
            {"PERDURE_MAX_CONCURRENT_WORKFLOW_TASKS": "1"},
            {},
            "PERDURE_MAX_CONCURRENT_WORKFLOW_TASKS is '1', and takes a whole number of at least 2.",
            id="too few",
        ),
        pytest.param(
            {"PERDURE_MAX_CPU": "80"},
            {},
            "PERDURE_MAX_CPU is '80', and takes a share of the processors, above 0 and at most 1.",
            id="percent",
        ),
        pytest.param(
            {"PERDURE_MAX_MEMORY": "0"},
            {},
            "PERDURE_MAX_MEMORY is '0', and takes a share of the memory, above 0 and at most 1.",
            id="nothing",
        ),
        pytest.param(
            {"PERDURE_MAX_POLLERS": "1"},
            {},
            "PERDURE_MAX_POLLERS is '1', and takes a whole number from 2 to 1000.",
            id="one poller",
        ),
        pytest.param(
            {"PERDURE_HEALTH_ADDRESS": "8086"},
            {},
            "PERDURE_HEALTH_ADDRESS is '8086', and takes an address to answer health checks on, as 'host:port'.",
            id="no host for health",
        ),
        pytest.param(
            {"PERDURE_LOG_LEVEL": "loud"},
            {},
            "PERDURE_LOG_LEVEL is 'loud', and takes 'debug', 'info', 'warning' or 'error'.",
            id="no such level",
        ),
        pytest.param(
            {"PERDURE_METRICS_ADDRESS": "9464"},
            {},
            "PERDURE_METRICS_ADDRESS is '9464', and takes an address to serve Prometheus on, as 'host:port'.",
            id="no host",
        ),
        pytest.param(
            {"PERDURE_DRAIN_SECONDS": "inf"},
            {},
            "PERDURE_DRAIN_SECONDS is 'inf', and takes a number of seconds, 0 or more.",
            id="no end",
        ),
        pytest.param(
            {}, {"task_queue": ""}, "--task-queue is '', and takes the name of a task queue.", id="empty option"
        ),
        pytest.param(
            {"PERDURE_TASK_QEUE": "x"},
            {},
            "The environment variable 'PERDURE_TASK_QEUE' is unknown. Did you mean 'PERDURE_TASK_QUEUE'?",
            id="misspelt variable",
        ),
        pytest.param({}, {"agent": "x"}, "The setting 'agent' is unknown. Did you mean 'agents'?", id="misspelt field"),
        pytest.param(
            {"PERDURE_CODEC_KEY": "not base64!"},
            {},
            "PERDURE_CODEC_KEY cannot be used (it is no base64 text), and takes the base64 text of 32 random bytes.",
            id="key is no base64",
        ),
        pytest.param(
            {"PERDURE_CODEC_KEYS_OLD": f"{KEY},{SHORT_KEY}"},
            {},
            "PERDURE_CODEC_KEYS_OLD cannot be used (it holds 31 bytes), and takes earlier codec keys, "
            "each the base64 text of 32 bytes, separated by commas.",
            id="old key is short",
        ),
    ],
)
def test_settings_refuse(environ: dict[str, str], overrides: dict[str, Any], message: str) -> None:
    """A refusal names the variable or option, its value and what it takes."""
    with pytest.raises(SettingsRejected) as refused:
        Settings.load(environ, **overrides)
    assert refused.value.message == message


def test_settings_list_all_variables_where_none_is_near() -> None:
    """A variable that resembles nothing is answered with what there is."""
    with pytest.raises(SettingsRejected) as refused:
        Settings.load({"PERDURE_ZZZ": "1"})
    known = ", ".join(sorted(name for name in VARIABLES.values() if name.startswith("PERDURE_")))
    assert refused.value.message == (f"The environment variable 'PERDURE_ZZZ' is unknown. The variables are {known}.")


def test_settings_never_show_a_key() -> None:
    """Neither the text form nor a dump of the settings holds a key."""
    settings = Settings.load({"PERDURE_CODEC_KEY": KEY, "PERDURE_CODEC_KEYS_OLD": KEY})
    assert KEY not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("environ", "versioned"),
    [
        pytest.param({}, False, id="neither"),
        pytest.param({"TEMPORAL_DEPLOYMENT_NAME": "agents"}, False, id="name alone"),
        pytest.param({"TEMPORAL_DEPLOYMENT_NAME": "agents", "TEMPORAL_WORKER_BUILD_ID": "b7"}, True, id="both"),
    ],
)
def test_settings_version_workers_when_both_variables_are_set(environ: dict[str, str], versioned: bool) -> None:
    """One of Temporal's two variables alone does not switch versioning on."""
    assert Settings.load(environ).is_versioned is versioned


def test_settings_load_no_sdk() -> None:
    """A help text must not wait for the SDK, so neither the package nor the settings load it."""
    script = "import sys, runtime, runtime.settings; print('temporalio' in sys.modules, callable(runtime.connect))"
    folder = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert ran.stdout == "False True\n"
