"""Which models an agent asks: what agents.toml may say, and what becomes of it."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from activities.executors import Resources
from activities.model_names import PROVIDERS, fault_in
from activities.registry import ModelAgent, Registry
from workflows.errors import AgentsRejected, StepFailed

OPENAI = "https://api.openai.com/v1/"


def _load(folder: Path, text: str, default_model: str | None = None) -> Registry:
    path = folder / "agents.toml"
    path.write_text(text)
    return Registry.load(path, default_model=default_model)


def test_registry_reads_a_model_agent(tmp_path: Path) -> None:
    """Each key of the entry is there; one model is a chain of one."""
    registry = _load(
        tmp_path,
        """
        [agents.lead]
        executor = "model"
        model = ["openai:gpt-5-mini", "anthropic:claude-sonnet-4-5"]
        api_key_env = "LEAD_KEY"
        instructions = "You lead."
        tools = ["read_file", "calculate"]
        delegates = ["local"]
        max_steps = 12
        temperature = 0.5
        max_output_tokens = 4000
        request_timeout_seconds = 90
        idle_timeout_seconds = 30
        tool_timeout_seconds = 20
        approval_timeout_seconds = 3600
        [agents.lead.settings]
        openai_reasoning_effort = "low"
        [agents.local]
        executor = "model"
        model = "qwen3:8b"
        base_url = "http://localhost:11434/v1"
        """,
    )
    assert registry.get("lead") == ModelAgent(
        name="lead",
        model=("openai:gpt-5-mini", "anthropic:claude-sonnet-4-5"),
        api_key_env="LEAD_KEY",
        instructions="You lead.",
        tools=("read_file", "calculate"),
        delegates=("local",),
        max_steps=12,
        temperature=0.5,
        max_output_tokens=4_000,
        request_timeout_seconds=90,
        idle_timeout_seconds=30,
        tool_timeout_seconds=20,
        approval_timeout_seconds=3_600,
        settings={"openai_reasoning_effort": "low"},
    )
    local = registry.get("local")
    assert isinstance(local, ModelAgent)
    assert (local.model, local.max_steps, local.request_timeout_seconds) == (("qwen3:8b",), 50, 600)


def test_registry_tells_what_is_wrong_with_a_model_agent(tmp_path: Path) -> None:
    """One line for each fault, and never a value that may be a secret."""
    with pytest.raises(AgentsRejected) as rejected:
        _load(
            tmp_path,
            """
            [agents.nameless]
            executor = "model"
            [agents.typo]
            executor = "model"
            model = ["opnai:gpt-5", "gpt-5", "python:here"]
            tools = ["red_file", "grep_files"]
            delegates = ["typpo"]
            [agents.far]
            executor = "model"
            model = "anthropic:claude"
            base_url = "http://localhost/v1"
            [agents.key]
            executor = "model"
            model = "openai:x"
            api_key_env = "sk-live-123"
            base_url = "http://me:secret@localhost/v1"
            temperature = 5
            idle_timeout_seconds = 0
            [agents.set]
            executor = "model"
            model = "openai:x"
            settings = { max_tokens = 5 }
            [agents.lead]
            executor = "model"
            model = "openai:x"
            delegates = ["set"]
            tools = ["delegate"]
            """,
        )
    path = tmp_path / "agents.toml"
    assert [line.removeprefix(f"{path}: ") for line in rejected.value.message.splitlines()] == [
        "agent 'key': 'base_url': holds a user name or a password. Put the key into an environment variable, and name "
        "that in 'api_key_env'.",
        "agent 'key': 'api_key_env': must be the name of an environment variable, never the key itself.",
        "agent 'key': 'temperature' is 5: input should be less than or equal to 2.",
        "agent 'key': 'idle_timeout_seconds' is 0: input should be greater than 0.",
        "agent 'set': 'settings.max_tokens' cannot be set. Use 'max_output_tokens' of the agent.",
        "agent 'nameless' names no model, and there is no default one. Set its 'model', 'default_model' at the top of "
        "the file, or PERDURE_MODEL.",
        "agent 'typo': model 'opnai:gpt-5' names the unknown provider 'opnai'; the nearest known one is 'openai'.",
        "agent 'typo': model 'gpt-5' is not written as 'provider:name', for example 'openai:gpt-5-mini'.",
        "agent 'typo': model 'python:here' is not written as 'python:module:attribute'.",
        "agent 'typo' names the unknown tool 'red_file'; the nearest known one is 'read_file'.",
        "agent 'typo' names the unknown delegate 'typpo'; the nearest known one is 'typo'.",
        "agent 'far': model 'anthropic:claude' names the provider 'anthropic', and 'base_url' is for OpenAI-compatible "
        "endpoints.",
        "agent 'lead' names the unknown tool 'delegate'. The known ones are 'calculate', 'edit_file', 'find_files', "
        "'grep_files', 'list_dir', 'read_file' and 'write_file'.",
        "agent 'lead' has delegates, and a tool named 'delegate'. Give the tool another name.",
    ]


def test_registry_default_model_may_come_from_outside(tmp_path: Path) -> None:
    """PERDURE_MODEL wins over the file's default."""
    text = 'default_model = "openai:gpt-5"\n[agents.a]\nexecutor = "model"'
    assert _load(tmp_path, text).default_model == "openai:gpt-5"
    assert _load(tmp_path, text, default_model="openai:gpt-5-mini").default_model == "openai:gpt-5-mini"
    with pytest.raises(AgentsRejected, match=r"agent 'a': model 'opnai:x' names the unknown provider 'opnai'"):
        _load(tmp_path, text, default_model="opnai:x")
    with pytest.raises(AgentsRejected, match=r"'default_model' is 'gpt-5', which is not written as 'provider:name'"):
        _load(tmp_path, 'default_model = "gpt-5"')


def test_model_names_know_the_providers_of_the_library() -> None:
    """Each provider that agents.toml may name is one that can be made, with its package."""
    from pydantic_ai.providers import infer_provider_class

    for provider in PROVIDERS:
        with suppress(ImportError):  # its package is an extra
            infer_provider_class(provider)


@pytest.mark.parametrize(
    ("model", "base_url", "fault"),
    [
        ("test", None, None),
        ("gateway/openai:gpt-5", None, None),
        ("python:mine:model", None, None),
        ("openai:", None, "is not written as 'provider:name', for example 'openai:gpt-5-mini'"),
        ("quux:x", None, "names the unknown provider 'quux'"),
        ("qwen3:8b", "http://localhost/v1", None),
        ("openai-responses:x", "http://localhost/v1", None),
    ],
)
def test_model_names_are_judged(model: str, base_url: str | None, fault: str | None) -> None:
    """What can be known about a name without loading any library is told when agents.toml is read."""
    assert fault_in(model, base_url=base_url) == fault


async def _built(**source: Any) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    from activities.executors.model.naming import ModelSource, model_of

    with ThreadPoolExecutor(1) as threads:
        return await model_of(ModelSource(**source), Resources(threads=threads))


@pytest.mark.parametrize(
    ("source", "environ", "kind", "address", "key"),
    [
        ({"model": "openai:gpt-5"}, {"OPENAI_API_KEY": "k1"}, "OpenAIResponsesModel", OPENAI, "k1"),
        ({"model": "openai-chat:gpt-5"}, {"OPENAI_API_KEY": "k1"}, "OpenAIChatModel", OPENAI, "k1"),
        ({"model": "openai:gpt-5", "api_key_env": "OWN"}, {"OPENAI_API_KEY": "k1", "OWN": "k2"}, "OpenAIResponsesModel",
         OPENAI, "k2"),
        ({"model": "openai:m"}, {"OPENAI_API_KEY": "k1", "OPENAI_BASE_URL": "http://here/v1"}, "CompatibleChatModel",
         "http://here/v1/", "k1"),
        ({"model": "m:8b", "base_url": "http://there/v1"}, {"OPENAI_API_KEY": "k1"}, "CompatibleChatModel",
         "http://there/v1/", "api-key-not-set"),
        ({"model": "openai-responses:m", "base_url": "http://there/v1", "api_key_env": "OWN"}, {"OWN": "k2"},
         "OpenAIResponsesModel", "http://there/v1/", "k2"),
    ],
    ids=["openai", "openai-chat", "key of its own", "OPENAI_BASE_URL", "base_url", "base_url with a key"],
)  # fmt: skip
async def test_models_are_asked_where_they_are_said_to_be(
    monkeypatch: pytest.MonkeyPatch, source: dict[str, str], environ: dict[str, str], kind: str, address: str, key: str
) -> None:
    """Address and key come from the agent, else from the environment; an OpenAI key goes to no other address of the
    agent's."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    model = await _built(**source)
    assert (type(model).__name__, str(model.client.base_url), model.client.api_key) == (kind, address, key)


async def test_models_of_the_users_own_are_checked() -> None:
    """What a reference stands for must be a model, or answer as one."""
    for reference, told in (
        ("python:json:nothing", "model 'python:json:nothing' is missing: module 'json' has no 'nothing'"),
        (
            f"python:{__name__}:NUMBER",
            f"model 'python:{__name__}:NUMBER' is of type 'int'; it takes a Model of pydantic-ai, or a function as "
            "FunctionModel takes it",
        ),
    ):
        with pytest.raises(StepFailed) as failed:
            await _built(model=reference)
        assert failed.value.message == told


NUMBER = 3


def test_dependencies_name_the_library_of_models() -> None:
    """The extras that messages tell people to install exist."""
    from activities.executors.model.naming import EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])
