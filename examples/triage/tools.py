"""The pager that the duty officer carries: a gateway of the workspace, with the manners of a real one."""

from __future__ import annotations

import json

from activities.tools import ToolContext, ToolFailed

PAGER_CHARACTERS = 160
# One short message; the gateway takes no longer ones.
OUTBOX = "pager.jsonl"


def page(text: str, context: ToolContext) -> dict[str, int]:
    """Page the duty officer. Where an earlier attempt got through, the officer is not paged twice.

    Args:
        text: The message, 160 characters at most.
    """
    if len(text) > PAGER_CHARACTERS:
        raise ToolFailed(f"the pager takes {PAGER_CHARACTERS} characters, and the message has {len(text)}")
    outbox = context.workspace / "output" / OUTBOX
    outbox.parent.mkdir(parents=True, exist_ok=True)
    sent = outbox.read_text(encoding="utf-8").splitlines() if outbox.exists() else []
    if not any(json.loads(line)["key"] == context.idempotency_key for line in sent):
        with outbox.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": context.idempotency_key, "text": text}) + "\n")
    return {"characters": len(text)}
