"""The tool that posts a review; a person is asked before each call."""

from __future__ import annotations

import hashlib
from pathlib import Path

from activities.tools import ToolContext, ToolFailed, tool

POSTED = Path("output/reviews")


@tool(requires_approval=True)
def post_review(review: str, context: ToolContext) -> dict[str, str]:
    """Post a review where its readers look for it.

    Args:
        review: The whole text.
    """
    if not review.strip():
        raise ToolFailed("the review is empty")
    # One file for each call, however often it is made: a call that was lost runs again with the same key.
    name = hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:12]
    file = context.workspace / POSTED / f"{name}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{review.strip()}\n", encoding="utf-8")
    return {"posted": str(file.relative_to(context.workspace))}
