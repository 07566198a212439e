"""Why Temporal withdraws an attempt that is under way: the run wants no outcome any more, or it shall run elsewhere.

Law: an attempt that only its worker loses is tried again; one that its run has ended, or that is too late, is not.
"""

from __future__ import annotations

import asyncio

from temporalio import activity


def lost_to() -> tuple[str, str] | None:
    """What takes a cancelled attempt from its worker, as a failure's type and text; None where it ends for good.

    Raises CancelledError where no one asked for it: a heartbeat could not be recorded, and the SDK reports why.
    """
    reason = activity.cancellation_details()
    if reason is None:
        raise asyncio.CancelledError
    if reason.cancel_requested or reason.timed_out or reason.not_found:
        return None
    for is_so, kind, text in (
        (reason.worker_shutdown, "WorkerShutdown", "worker is shutting down"),
        (reason.paused, "ActivityPaused", "the activity was paused"),
        (reason.reset, "ActivityReset", "the activity was reset"),
    ):
        if is_so:
            return kind, text
    return None
