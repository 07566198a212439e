"""An agent that is written out in its step, as an entry that the model executor takes.

What the profile says wins over the entry of its name, where that one is a model agent too; what it leaves out stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, ValidationError

from activities.entries import ModelAgent
from activities.model_names import fault_in
from workflows.errors import StepFailed, cut
from workflows.steps import AgentSpec


def with_profile(profile: AgentSpec, entry: ModelAgent | None) -> ModelAgent:
    """The model agent that a profile describes. Raises `StepFailed`, naming what cannot be."""
    given = entry.model_dump() if entry else {"name": profile.name, "max_steps": profile.max_turns}
    given |= _said(profile)
    try:
        described = ModelAgent.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        found = cut(repr(fault["input"]))
        raise StepFailed(f"the profile of agent {profile.name!r}: {key!r} is {found}: {fault['msg']}") from None
    for model in described.model:
        if told := fault_in(model, base_url=described.base_url):
            raise StepFailed(f"the profile of agent {profile.name!r} names the model {cut(model)!r}, which {told}")
    return described


def _said(profile: AgentSpec) -> dict[str, Any]:
    """The keys of an entry that a profile sets."""
    said: dict[str, Any] = {}
    if profile.system_prompt:
        said["instructions"] = profile.system_prompt
    if profile.tools:
        said["tools"] = profile.tools
    if "max_turns" in profile.model_fields_set:
        said["max_steps"] = profile.max_turns
    if "temperature" in profile.metadata:
        said["temperature"] = profile.metadata["temperature"]
    if model := _model(profile.metadata):
        said["model"] = model
    return said


def _model(metadata: Mapping[str, JsonValue]) -> JsonValue:
    """`model`, under its `provider` where both are named."""
    model, provider = metadata.get("model"), metadata.get("provider")
    if isinstance(model, str) and isinstance(provider, str) and not model.startswith(f"{provider}:"):
        return f"{provider}:{model}"
    return model
