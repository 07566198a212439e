"""A run with a child, as users write them."""

from __future__ import annotations

from temporalio import workflow


@workflow.defn
class Child:
    """Answers with the length of what it was given."""

    @workflow.run
    async def run(self, text: str) -> int:
        """The length."""
        return len(text)


@workflow.defn
class Parent:
    """Starts a child with a large input, and stays open after it."""

    def __init__(self) -> None:
        self.is_over = False

    @workflow.signal
    def end(self) -> None:
        """Let it end."""
        self.is_over = True

    @workflow.run
    async def run(self, text: str) -> int:
        """The child's answer."""
        length = await workflow.execute_child_workflow(Child.run, text, id=f"{workflow.uuid4()}")
        await workflow.wait_condition(lambda: self.is_over)
        return length
