"""Does nothing, so that a workflow which waits for nothing gives its worker back for a moment."""

from __future__ import annotations

from temporalio import activity

from workflows import wire


@activity.defn(name=wire.GIVE_WAY)
async def give_way() -> None:
    """Return at once; running twice is safe."""
