"""Whether a model can be asked, found out without a token: its package, its key, its server, and its list of models.

Law: nothing is generated, and no key is in what is found.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

from openai import AsyncOpenAI
from pydantic_ai.models import Model

from activities.entries import ModelAgent
from activities.executors import Resources
from activities.executors.model.naming import ModelSource, is_own_model, model_of, sources_of
from activities.model_names import TEST
from activities.registry import Registry
from activities.secrets import without_secrets
from workflows.errors import StepFailed, cut

PROBE_SECONDS = 5.0
# A list of models is there at once, or its server is not.
SHOWN_MODELS = 8
SAID_CHARACTERS = 200
ADDRESS_REMEDY = "Look at 'base_url' (or OPENAI_BASE_URL): for most servers it ends in '/v1'."
KEY_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found out about a model."""

    verdict: Literal["ok", "warn", "fail"]
    found: str
    """A sentence that begins with the model."""
    remedy: str | None = None


async def probe(registry: Registry) -> list[Probe]:
    """What is known of each model that an agent of the registry asks."""
    entries = [entry for name in registry.names() if isinstance(entry := registry.get(name), ModelAgent)]
    with ThreadPoolExecutor(1) as threads:
        resources = Resources(threads=threads, registry=registry)
        try:
            sources = dict.fromkeys(source for entry in entries for source in sources_of(entry, registry.default_model))
            return await asyncio.gather(*(_probed(source, resources) for source in sources))
        finally:
            await resources.close()


async def _probed(source: ModelSource, resources: Resources) -> Probe:
    try:
        model = await model_of(source, resources)
    except StepFailed as error:
        return Probe("fail", error.message.removeprefix("model "), "Steps that ask it fail until then.")
    name = repr(source.model)
    if source.model == TEST or is_own_model(source):
        return Probe("ok", f"{name} answers by a script, in the worker itself")
    client = getattr(model, "client", None)
    if not hasattr(getattr(client, "models", None), "list") or not hasattr(client, "base_url"):
        return Probe("ok", f"{name} has its package and its key; whether it answers shows when it is asked")
    return await _listed(source, model, client)


async def _listed(source: ModelSource, model: Model, client: Any) -> Probe:
    """What the service itself says of a model: the list of those that it has costs nothing."""
    address = without_secrets(_address(str(client.base_url)), (source.api_key_env,))
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            page = await client.with_options(timeout=PROBE_SECONDS, max_retries=0).models.list()
            names = [str(listed.id) for listed in page.data or ()]
    except Exception as error:  # noqa: BLE001 - whatever it is, the service gave no list
        return _silent(source, address, error)
    # Only an OpenAI-compatible server is sure to list a model by the name that it is asked by.
    if not isinstance(client, AsyncOpenAI) or not names or any(_is_same(model.model_name, name) for name in names):
        return Probe("ok", f"{source.model!r} is served at {address}")
    more = f" and {len(names) - SHOWN_MODELS:,} more" if len(names) > SHOWN_MODELS else ""
    listed = ", ".join(repr(cut(name)) for name in names[:SHOWN_MODELS]) + more
    remedy = f"Name one that it has: {listed}."
    return Probe("warn", f"{source.model!r} is not in the list of {address}", remedy)


def _address(url: str) -> str:
    """Where a service is, without a name, a password or a key that the address holds."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _is_same(asked: str, listed: str) -> bool:
    """Ollama lists `qwen3:latest` for what is asked as `qwen3`."""
    return listed in (asked, f"{asked}:latest")


def _silent(source: ModelSource, address: str, error: Exception) -> Probe:
    """What a list that did not come means."""
    name, status = repr(source.model), getattr(error, "status_code", None)
    if status in KEY_REFUSED:
        variable = repr(source.api_key_env) if source.api_key_env else "of its provider"
        remedy = f"Put the right key into the environment variable {variable}."
        return Probe("fail", f"the key of {name} is refused at {address} ({status})", remedy)
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        found = f"{name} has a server at {address} that answers, and lists no models there ({status})"
        is_sure = status != HTTPStatus.NOT_FOUND or address.endswith("/v1")
        return Probe("ok", found) if is_sure else Probe("warn", found, ADDRESS_REMEDY)
    said = cut(without_secrets(" ".join(str(error).split()), (source.api_key_env,)), SAID_CHARACTERS)
    why = f"{status}" if status is not None else f"{type(error).__name__}{f': {said}' if said else ''}"
    return Probe("fail", f"{name} does not answer at {address} ({why})", f"Start its server. {ADDRESS_REMEDY}")
