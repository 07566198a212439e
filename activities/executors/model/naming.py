"""Which models an agent asks, and how one is built from its name.

Law: a key is read from the environment and goes to its provider; it is in no message, no log and no history.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers import Provider, infer_provider, infer_provider_class
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from activities.entries import ModelAgent, found_at
from activities.executors import Resources
from activities.executors.model.bodies import lighten
from activities.executors.model.compatible import CompatibleChatModel
from activities.model_names import OPENAI_COMPATIBLE, PYTHON, fault_in, parted
from activities.secrets import without_secrets
from workflows.errors import StepFailed, cut

OPENAI_BASE_URL = "OPENAI_BASE_URL"
OPENAI_API_KEY = "OPENAI_API_KEY"
KEY_VARIABLE = re.compile(r"`([A-Z][A-Z0-9_]*)`")
# How pydantic-ai names the variable of a key that is missing.
EXTRAS = {"anthropic": "anthropic", "google": "google", "google-cloud": "google"}
"""perdure's own extra by provider; for others the package is named by the error that its absence brings."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model, as an agent names it; what two agents name alike is one model, with one set of connections."""

    model: str
    base_url: str | None = None
    api_key_env: str | None = None


def sources_of(entry: ModelAgent, default_model: str | None) -> list[ModelSource]:
    """The models that an agent asks, in order. Raises `StepFailed` where there is none."""
    names = entry.model or ((default_model,) if default_model else ())
    if not names:
        raise StepFailed(
            f"agent {entry.name!r} names no model, and the worker has no default one. Set its 'model', "
            "'default_model' in agents.toml, or PERDURE_MODEL"
        )
    return [ModelSource(name, entry.base_url, entry.api_key_env) for name in names]


def is_own_model(source: ModelSource) -> bool:
    """Whether a model is code of the user's."""
    return source.base_url is None and parted(source.model)[0] == PYTHON


async def model_of(source: ModelSource, resources: Resources) -> Model:
    """The model of a source, the same one for each step that asks for it; open until the worker ends.

    Raises `StepFailed`.
    """
    if source not in resources.models:
        # In a thread: a provider's library, and its certificates, take their time to load.
        built = await asyncio.to_thread(_built, source)
        if resources.models.setdefault(source, built) is built:  # else another step was faster
            await built.__aenter__()
    return resources.models[source]


def _built(source: ModelSource) -> Model:
    if fault := fault_in(source.model, base_url=source.base_url):
        raise StepFailed(f"model {cut(source.model)!r} {fault}")
    try:
        return _model(source)
    except UserError as error:
        raise StepFailed(_told(source, str(error))) from None
    except ImportError as error:
        raise StepFailed(_missing_package(source, str(error))) from None


def _model(source: ModelSource) -> Model:
    provider, name = parted(source.model)
    if provider == PYTHON:
        return _own_model(name)
    model = _provided_model(source)
    lighten(model)
    return model


def _provided_model(source: ModelSource) -> Model:
    provider, _ = parted(source.model)
    if source.base_url is not None or (provider == "openai" and os.environ.get(OPENAI_BASE_URL)):
        return _compatible_model(source)
    return infer_model(source.model, provider_factory=_provider_factory(source))


def _provider_factory(source: ModelSource) -> Callable[[str], Provider[Any]]:
    key = _key(source)
    if key is None:
        return infer_provider
    return lambda provider: infer_provider_class(provider)(api_key=key)  # type: ignore[call-arg]  # all but a few do


def _compatible_model(source: ModelSource) -> Model:
    """A model behind an OpenAI-compatible address, which speaks the chat API unless it is named otherwise."""
    provider, name = parted(source.model)
    if provider not in OPENAI_COMPATIBLE:  # a bare name, and it may hold a colon itself
        provider, name = "openai", source.model
    address = source.base_url or os.environ[OPENAI_BASE_URL]
    key = _key(source)
    if key is None and source.base_url is None:
        key = os.environ.get(OPENAI_API_KEY)
    # Nothing of it comes from the environment: an OpenAI key must not go to somebody else's address.
    service: Provider[AsyncOpenAI] = OpenAICompatibleProvider("openai-compatible", base_url=address, api_key=key)
    if provider == "openai-responses":
        return OpenAIResponsesModel(name, provider=service)
    return CompatibleChatModel(name, provider=service)


def _key(source: ModelSource) -> str | None:
    """The key that the agent's `api_key_env` names; None where it names none. Raises `StepFailed` where it is unset."""
    if source.api_key_env is None:
        return None
    if key := os.environ.get(source.api_key_env):
        return key
    raise StepFailed(
        f"model {source.model!r} needs the key of the environment variable {source.api_key_env!r}, which 'api_key_env' "
        "names and which is not set where the worker runs"
    )


def _own_model(reference: str) -> Model:
    """A model of the user's own, or a function that answers as one."""
    try:
        found = found_at(reference)
    except ValueError as error:
        raise StepFailed(f"model {f'{PYTHON}:{reference}'!r} {error}") from None
    if isinstance(found, Model):
        return found
    if callable(found):
        return FunctionModel(found, model_name=reference)
    raise StepFailed(
        f"model {f'{PYTHON}:{reference}'!r} is of type {type(found).__name__!r}; it takes a Model of pydantic-ai, or a "
        "function as FunctionModel takes it"
    )


def _told(source: ModelSource, text: str) -> str:
    """What pydantic-ai says of a model that it cannot make, in our words where it lacks a key."""
    variable = KEY_VARIABLE.search(text)
    if variable and "environment variable" in text:
        return (
            f"model {source.model!r} needs an API key: set the environment variable {variable[1]!r} where the worker "
            "runs, or name another one by 'api_key_env'"
        )
    return f"model {source.model!r} cannot be used: {cut(without_secrets(text, (source.api_key_env,)), 500)}"


def _missing_package(source: ModelSource, text: str) -> str:
    extra = EXTRAS.get(parted(source.model)[0] or "")
    if extra:
        return f"model {source.model!r} needs a package that is not installed: pip install 'perdure[{extra}]'"
    return f"model {source.model!r} needs a package that is not installed. {text}"
