"""Fan-outs, pipelines and loops."""

from temporalio import workflow
from temporalio.client import Client

from workflows import AgentStepSpec, AgentWorkflow, Continue, StepOutcome, Stop

with workflow.unsafe.imports_passed_through():
    from tests.support import events_of, served


def ask(task_id: str, prompt: str) -> AgentStepSpec:
    return AgentStepSpec(task_id=task_id, agent="echo", prompt=prompt)


@workflow.defn
class Survey(AgentWorkflow):
    """One step for each question, side by side."""

    @workflow.run
    async def run(self, questions: list[str]) -> list[str]:
        outcomes = await self.parallel(ask(f"q{i}", question) for i, question in enumerate(questions))
        return [outcome.output for outcome in outcomes]


async def test_parallel_answers_in_the_order_of_its_specs(client: Client) -> None:
    """`parallel` waits for all steps; `max_concurrency` of the run, 8 unless set, says how many run at once."""
    async with served(client, Survey) as world:
        answers = await world.run("Survey", ["one", "two", "three"], max_concurrency=2)
    assert answers == ["one", "two", "three"]


@workflow.defn
class Reading(AgentWorkflow):
    """Each page is read and then summarised, without waiting for the other pages."""

    @workflow.run
    async def run(self, pages: list[str]) -> list[str | None]:
        last = await self.pipeline(pages, [self.read, self.summarise])
        return [outcome.output if outcome else None for outcome in last]

    def read(self, previous: StepOutcome | None, page: str) -> AgentStepSpec | None:
        return ask(f"read-{page}", f"text of {page}") if page != "blank" else None

    def summarise(self, previous: StepOutcome | None, page: str) -> AgentStepSpec | None:
        assert previous is not None
        return ask(f"sum-{page}", f"in short: {previous.output}")


async def test_pipeline_sends_each_item_through_its_own_chain(client: Client) -> None:
    """A stage is a function (previous outcome, item) -> spec; None ends the chain of that item."""
    async with served(client, Reading) as world:
        assert await world.run("Reading", ["a", "blank", "b"]) == ["in short: text of a", None, "in short: text of b"]


@workflow.defn
class Polish(AgentWorkflow):
    """Goes on until the text is long enough, three rounds at most."""

    @workflow.run
    async def run(self, draft: str) -> str:
        def next(outcomes: list[StepOutcome]) -> Continue | Stop:
            text = outcomes[0].output
            return Stop() if len(text) >= 6 else Continue([ask("polish", text + "!")])

        return (await self.loop([ask("polish", draft)], 3, next))[0].output


async def test_loop_runs_rounds_until_it_is_told_to_stop(client: Client) -> None:
    """`next` sees each round's outcomes and answers Continue(specs) or Stop()."""
    async with served(client, Polish) as world:
        assert await world.run("Polish", "good") == "good!!"
        assert await world.run("Polish", "ok") == "ok!!", "the third round was the last"


@workflow.defn
class Story(AgentWorkflow):
    """Two named phases and a note."""

    @workflow.run
    async def run(self, _: None) -> None:
        await self.phase("gather", [ask("a", "x"), ask("b", "y")])
        self.log("info", "half-way", {"gathered": 2})
        await self.phase("write", [ask("c", "z")])


async def test_events_tell_what_happened(client: Client) -> None:
    """The query `events` answers while the run goes on, and after it has ended."""
    async with served(client, Story) as world:
        handle = await world.start("Story")
        await handle.result()
        told = [event for event in await events_of(handle) if not event["type"].startswith("step_")]
    assert told == [
        {"type": "phase_start", "name": "gather", "index": 0, "step_count": 2},
        {"type": "phase_end", "name": "gather", "index": 0, "succeeded": 2, "failed": 0},
        {"type": "log", "level": "info", "message": "half-way", "fields": {"gathered": 2}},
        {"type": "phase_start", "name": "write", "index": 1, "step_count": 1},
        {"type": "phase_end", "name": "write", "index": 1, "succeeded": 1, "failed": 0},
    ]
