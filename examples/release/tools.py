"""Publishing: a version goes to a channel once, and never changes afterwards."""

from __future__ import annotations

import json

from activities.tools import ToolContext, ToolFailed

CHANNELS = ("beta", "stable")


def publish(version: str, channel: str, notes: str, context: ToolContext) -> dict[str, str]:
    """Publish a version. A second attempt of a call that got through finds its own work and leaves it.

    Args:
        version: What is published.
        channel: 'beta' or 'stable'.
        notes: What has changed, as Markdown.
    """
    if channel not in CHANNELS:
        raise ToolFailed(f"the channel is {channel!r}; the channels are 'beta' and 'stable'")
    published = context.workspace / "output" / channel / f"{version}.json"
    published.parent.mkdir(parents=True, exist_ok=True)
    entry = {"version": version, "notes": notes, "key": context.idempotency_key}
    try:
        with published.open("x", encoding="utf-8") as file:
            json.dump(entry, file, indent=2)
    except FileExistsError:
        if json.loads(published.read_text(encoding="utf-8"))["key"] != context.idempotency_key:
            raise ToolFailed(f"{version} is on {channel} already, and what is published never changes") from None
    return {"version": version, "channel": channel}
