"""How a model is named: `provider:name`, or a bare name where an address says who serves it.

Loads no model library: agents.toml is read by commands that call no model.
"""

from __future__ import annotations

import difflib

from workflows.errors import cut

PROVIDERS = (
    *("alibaba", "anthropic", "azure", "azure-responses", "bedrock", "bedrock-mantle", "cerebras", "cohere", "crusoe"),
    *("deepseek", "fireworks", "github", "github-copilot", "google", "google-cloud", "groq", "heroku", "huggingface"),
    *("litellm", "meta", "mistral", "moonshotai", "nebius", "ollama", "openai", "openai-chat", "openai-chatgpt"),
    *("openai-codex", "openai-responses"),
    *("openrouter", "ovhcloud", "sambanova", "snowflake", "together", "vercel", "vllm", "xai", "zai"),
)
"""The providers of pydantic-ai whose models hold a conversation."""

OPENAI_COMPATIBLE = ("openai", "openai-chat", "openai-responses")
"""The providers that `base_url` may stand beside."""

PYTHON = "python"
"""`python:module:attribute` names a pydantic-ai model of one's own, or a function that answers as one."""

TEST = "test"
"""pydantic-ai's model for tests: it calls every tool once, then answers."""


def parted(model: str) -> tuple[str | None, str]:
    """The provider and the name that a model string is made of; no provider where it names none."""
    provider, colon, name = model.partition(":")
    return (provider, name) if colon else (None, model)


def fault_in(model: str, *, base_url: str | None = None) -> str | None:
    """What is wrong with a model's name, as the end of a sentence that starts with it; None where nothing is."""
    provider, name = parted(model)
    if base_url is not None:
        # Names of local models hold colons themselves (`qwen3:8b`), so only what is surely another provider is refused.
        if provider in PROVIDERS and provider not in OPENAI_COMPATIBLE:
            return f"names the provider {provider!r}, and 'base_url' is for OpenAI-compatible endpoints"
        return None
    if model == TEST:
        return None
    if provider is None or not name:
        return "is not written as 'provider:name', for example 'openai:gpt-5-mini'"
    if provider in PROVIDERS or provider.startswith("gateway/"):
        return None
    if provider == PYTHON:
        return None if ":" in name else "is not written as 'python:module:attribute'"
    near = difflib.get_close_matches(provider, PROVIDERS, n=1)
    nearest = f"; the nearest known one is {near[0]!r}" if near else ""
    return f"names the unknown provider {cut(provider)!r}{nearest}"
