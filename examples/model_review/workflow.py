"""The workflow: a patch is reviewed, and the review is posted if a person agrees."""

from __future__ import annotations

from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow, StepOutcome


@workflow.defn
class ModelReview(AgentWorkflow):
    """Two steps. Whom the first one asks, and what a person says to the second, is no concern of the workflow."""

    @workflow.run
    async def run(self, patch: str) -> list[StepOutcome]:
        """The outcomes of the steps that were begun."""
        review = await self.agent(AgentStepSpec(task_id="review", agent="reviewer", prompt=f"Review the patch {patch}"))
        if not review.success:
            return [review]
        post = await self.agent(AgentStepSpec(task_id="post", agent="publisher", prompt=review.output))
        return [review, post]
