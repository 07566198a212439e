"""Workflows that are hard to read."""

from temporalio import workflow

from workflows import AgentWorkflow


@workflow.defn
class Stuck(AgentWorkflow):
    """Never gets past its first line."""

    @workflow.run
    async def run(self, reason: str) -> None:
        """Fail the workflow task."""
        raise RuntimeError(reason)


@workflow.defn
class Chatty(AgentWorkflow):
    """Tells more than one page of events holds."""

    @workflow.run
    async def run(self, count: int) -> int:
        """Log so many events."""
        for number in range(count):
            self.log("info", f"event {number}", {})
        return count
