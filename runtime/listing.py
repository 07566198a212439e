"""Which runs there are on a task queue. Children of other runs do not count."""

from __future__ import annotations

from datetime import UTC, datetime

from temporalio.client import Client

from runtime.standing import RunInfo, run_info

STATUS_NAMES = {
    "running": "Running",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Canceled",
    "terminated": "Terminated",
    "timed_out": "TimedOut",
    "continued_as_new": "ContinuedAsNew",
}
"""What a list filter calls each status."""


async def latest_run(client: Client, task_queue: str) -> str | None:
    """The id of the run that was started last on a task queue."""
    own = _of(task_queue)
    latest: str | None = None
    since: datetime | None = None
    while True:
        # The list is ordered by the time of closing and cannot be ordered otherwise, so ask for later starts until
        # there are none.
        later = "" if since is None else f" AND StartTime > '{since.astimezone(UTC).isoformat()}'"
        found = None
        async for execution in client.list_workflows(own + later, limit=1):
            found = execution
        if found is None or (since is not None and found.start_time <= since):  # its own fraction of a microsecond
            return latest
        latest, since = found.id, found.start_time


async def open_runs(client: Client, task_queue: str) -> list[tuple[str, str]]:
    """Id and type of each unfinished run of a task queue."""
    query = f"{_of(task_queue)} AND ExecutionStatus = 'Running'"
    return [(execution.id, execution.workflow_type) async for execution in client.list_workflows(query)]


async def list_runs(client: Client, task_queue: str, status: str | None, limit: int) -> list[RunInfo]:
    """Runs of a task queue, open ones first, then the latest closed."""
    query = _of(task_queue)
    if status is not None:
        query += f" AND ExecutionStatus = {quoted(STATUS_NAMES[status])}"
    return [run_info(execution) async for execution in client.list_workflows(query, limit=limit)]


def _of(task_queue: str) -> str:
    """The list filter for runs of a task queue."""
    return f"TaskQueue = {quoted(task_queue)} AND ParentWorkflowId IS NULL"


def quoted(value: str) -> str:
    """A value of a list filter."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
