"""Agents of one's own: a function, what it may ask its context, and what it leaves for its next attempt."""

from pathlib import Path

from temporalio.client import Client

from activities.context import StepContext
from tests.support import served
from workflows import AgentStepSpec, RetryableStepError, Usage

PAGES = ["one", "two", "three"]


async def read_pages(step: AgentStepSpec, context: StepContext) -> str:
    """Reads page by page, and is interrupted once, after the second."""
    read: list[str] = list(context.restored or [])  # what the attempt before left
    for page in PAGES[len(read) :]:
        if len(read) == 2 and context.attempt == 1:
            raise RetryableStepError("the line went dead")  # worth another attempt; any other error is final
        context.check_before_llm(estimate=10)  # held to what the run granted this step
        read.append(page.upper())
        context.record_after_llm(Usage(input_tokens=8, output_tokens=2))  # charged, whatever becomes of this attempt
        await context.checkpoint(read)  # stored when this returns
    return " ".join(read)


async def test_an_agent_goes_on_where_its_last_attempt_stopped(client: Client, tmp_path: Path) -> None:
    """Checkpoints survive the attempt: no page is read, and paid, twice."""
    agents = f"""
        [agents.reader]
        executor = "function"
        function = "{__name__}:read_pages"
    """
    phases = [{"name": "read", "steps": [{"task_id": "book", "agent": "reader", "prompt": "the book"}]}]
    async with served(client, agents=agents, blobs=tmp_path) as world:
        report = await world.run("Steps", phases, budget_tokens=1_000)
    [outcome] = report["phases"][0]["outcomes"]
    assert (outcome["output"], outcome["attempts"]) == ("ONE TWO THREE", 2)
    assert outcome["usage"] == {"input_tokens": 24, "output_tokens": 6, "total_tokens": 30}
    assert report["budget"]["consumed_tokens"] == 30


async def test_an_agent_can_be_any_program(client: Client) -> None:
    """A command gets the prompt on its standard input; its exit status decides whether the step succeeded."""
    agents = """
        [agents.sort]
        executor = "command"
        command = ["sort", "-n"]

        [agents.refuse]
        executor = "command"
        command = ["sh", "-c", "echo no thanks >&2; exit 3"]
    """
    steps = [{"task_id": agent, "agent": agent, "prompt": "3\n1\n2\n"} for agent in ("sort", "refuse")]
    async with served(client, agents=agents) as world:
        report = await world.run("Steps", [{"name": "run", "steps": steps}])
    sorted_, refused = report["phases"][0]["outcomes"]
    assert sorted_["output"] == "1\n2\n3\n"
    assert (refused["success"], refused["status"]) == (False, "failed")
    assert "no thanks" in refused["output"]


async def test_structured_output_is_checked_against_a_schema(client: Client) -> None:
    """With an `output_schema`, what does not fit fails the step, and says why."""
    schema = {"type": "object", "required": ["verdict"]}
    steps = [
        {"task_id": "good", "agent": "echo", "prompt": '{"verdict": "ship it"}', "output_schema": schema},
        {"task_id": "bad", "agent": "echo", "prompt": '{"opinion": "hm"}', "output_schema": schema},
    ]
    async with served(client) as world:
        report = await world.run("Steps", [{"name": "judge", "steps": steps}])
    good, bad = report["phases"][0]["outcomes"]
    assert (good["success"], good["structured"]) == (True, {"verdict": "ship it"})
    assert (bad["success"], bad["output"].splitlines()[0]) == (False, '{"opinion": "hm"}')
    assert "[structured output failed: " in bad["output"]
