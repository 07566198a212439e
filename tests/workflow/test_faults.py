"""What programs, callers and signals get wrong: each ends in our words, and no workflow task retries for ever."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

from runtime.replaying import replay_histories
from runtime.settings import Settings
from tests import programs
from tests.definitions import call, graph, proposal, stage
from tests.graphs import output_of, result_in_failure
from tests.programs import step, steps
from tests.support import World, event_types, events_of, failure_of, rejection_of, served, wait_until
from workflows import ALL_WORKFLOWS, wire

LIMIT = timedelta(seconds=30)
# On a run without any input: what would retry for ever ends, and fails its test.

NO_OBJECT = "input should be an object."


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(
        client,
        programs.FanOut,
        programs.Sequence,
        programs.Wide,
        programs.Mistaken,
        programs.Nested,
        programs.Aside,
        programs.UndoingAsNew,
    ) as world:
        yield world


@pytest.mark.parametrize(
    ("mistake", "result"),
    [
        ("a stage that returns a dict", [None, None]),
        ("a prompt that cannot be stored", [[False, "failed"], [True, "ok"]]),
        ("a log that is no JSON", "logged"),
        ("a deadline that has passed", "TimedOut"),
    ],
)
async def test_mistake_of_a_program_is_contained(world: World, mistake: str, result: Any) -> None:
    """A mistake costs its own step or chain; nothing stays open."""
    handle = await world.start("Mistaken", mistake, budget_tokens=1_000)
    assert await handle.result() == result
    assert (await handle.query("progress"))["running"] == 0
    assert (await handle.query("budget"))["granted_tokens"] == 0


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (
            "next that returns nothing",
            "InputRejected",
            "loop: next returned None; it returns Continue(specs) or Stop().",
        ),
    ],
)
async def test_mistake_of_a_program_fails_its_run(world: World, mistake: str, kind: str, message: str) -> None:
    """What the program must mend fails the run and says how."""
    assert await rejection_of(await world.start("Mistaken", mistake)) == (kind, message)


@pytest.mark.parametrize(
    ("signal", "payloads", "reason"),
    [
        (
            "set_budget",
            [],
            f"signal set_budget is null; {NO_OBJECT}",
        ),
        ("set_budget", [{}, {}], "signal set_budget takes one object; it was given 2 values."),
        (
            "set_budget",
            [{"limit_usd": "Infinity"}],
            "signal set_budget: 'limit_usd' is 'Infinity'; input should be a finite number.",
        ),
        (
            "record_usage",
            [{"id": "a", "cost_usd": "nan"}],
            "signal record_usage: 'cost_usd' is 'nan'; input should be a finite number.",
        ),
        (
            "record_usage",
            ["x"],
            f"signal record_usage is 'x'; {NO_OBJECT}",
        ),
    ],
)
async def test_wrong_signal_does_not_stop_the_run(world: World, signal: str, payloads: list[Any], reason: str) -> None:
    """Whatever a signal holds, the run goes on, and tells what was wrong with it."""
    handle = await world.start("Sequence", [step("a", "brief")])
    await handle.signal(signal, args=payloads)
    await handle.result()
    assert [event["reason"] for event in await events_of(handle, "signal_rejected")] == [reason]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], 'Steps takes a list of phases, [{"name": …, "steps": […]}]; it was given null.'),
        ([[], []], "Steps takes one argument, a list of phases; it was given 2."),
    ],
)
async def test_steps_without_its_input_fails(world: World, arguments: list[Any], message: str) -> None:
    """The commonest mistake there is: no input, or one too many."""
    handle = await world.client.start_workflow(
        "Steps", args=arguments, id=f"no-input-{len(arguments)}", task_queue=world.task_queue, execution_timeout=LIMIT
    )
    assert await rejection_of(handle) == ("InputRejected", message)


async def test_users_workflow_with_too_few_arguments_fails(world: World) -> None:
    """What `run` cannot be called with fails the run, and says what is missing."""
    handle = await world.client.start_workflow("FanOut", id="too-few", task_queue=world.task_queue)
    assert await rejection_of(handle) == (
        "InputRejected",
        "FanOut: missing a required argument: 'specs' (it was given 0).",
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"max_attempts": 3_000_000_000},
        {"task_queue": "/_sys/mine"},
        {"timeout_seconds": 1e300},
    ],
    ids=["attempts", "task queue", "timeout"],
)
async def test_value_that_the_server_refuses_fails_the_run(world: World, spec: dict[str, Any]) -> None:
    """What Temporal would refuse for ever is refused at once."""
    full = {"task_id": "a", "agent": "echo", "prompt": "p", **spec}
    kind, message = await rejection_of(await world.start("Steps", [{"name": "one", "steps": [full]}]))
    assert kind == "InputRejected"
    assert next(iter(spec)) in message


async def test_users_result_too_large_keeps_its_shape(world: World) -> None:
    """A list of outcomes over the limit is returned with its large outputs replaced."""
    outcomes = await world.run("FanOut", [step(f"s{n}", "verbose", "800000") for n in range(3)])
    assert [outcome["output"][:25] for outcome in outcomes] == ["[left out: 800,000 bytes,"] * 3


async def test_fan_out_of_large_prompts_is_paced(world: World) -> None:
    """Prompts that together pass what the server writes at once, with what comes meanwhile, go out in several tasks."""
    handle = await world.start("Wide", {"count": 8, "characters": 700_000})
    assert await handle.result() == [700_000] * 8
    await _see_paced(handle, 8)


async def test_tool_calls_with_large_parameters_are_paced(world: World) -> None:
    """So do the parameters of tool calls that run side by side."""
    calls = [{**call("calculate", expression=f"{{{{pad}}}}{n}"), "failure_behavior": "skip"} for n in range(6)]
    handle = await world.start("StageGraph", graph(stage("s", proposal(*calls)), initial_state={"pad": " " * 700_000}))
    result = await result_in_failure(handle)  # no expression is that long, which each of them is told
    assert [each["status"] for each in output_of(result, "s")["result"]["results"]] == ["failed"] * 6
    await _see_paced(handle, 1 + 6)  # the graph is large too, so an activity judges it


async def test_run_that_began_with_larger_tasks_replays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that was written before tasks were held to 2 MB has up to 3 MB in one of them."""
    with monkeypatch.context() as before:
        before.setattr(workflow, "patched", lambda id: False)
        handle = await world.start("Wide", {"count": 4, "characters": 700_000})
        assert await handle.result() == [700_000] * 4
    history = await handle.fetch_history()
    assert EventType.EVENT_TYPE_TIMER_STARTED not in [event.event_type for event in history.events]
    [verdict] = await replay_histories([history], [programs.Wide], Settings())
    assert verdict.failure is None


async def _see_paced(handle: WorkflowHandle[Any, Any], activities: int) -> None:
    """No workflow task schedules more than 2 MB, and today's code replays what was scheduled."""
    history = await handle.fetch_history()
    scheduled = [
        event.activity_task_scheduled_event_attributes
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    sizes = Counter[int]()
    for each in scheduled:
        sizes[each.workflow_task_completed_event_id] += each.ByteSize()
    assert len(scheduled) == activities
    assert max(sizes.values()) < 2_000_000
    [verdict] = await replay_histories([history], [*ALL_WORKFLOWS, programs.Wide], Settings())
    assert verdict.failure is None


async def test_outer_deadline_is_kept_while_the_inner_one_ends_its_work(world: World) -> None:
    """A deadline that comes while other work is being ended is not lost."""
    handle = await world.start("Nested")
    assert await handle.result() == "TimedOut"
    assert (await handle.query("progress"))["running"] == 0


async def test_cancel_ends_steps_in_tasks_of_the_workflow_s_own(world: World) -> None:
    """Steps that were started aside are cancelled, awaited and recorded too."""
    handle = await world.start("Aside", budget_tokens=10_000)

    async def begun() -> bool:
        return (await event_types(handle)).count("step_started") == 4

    await wait_until("four steps have begun", begun)
    await handle.cancel()
    assert type(await failure_of(handle)).__name__ == "CancelledError"
    assert (await event_types(handle)).count("step_finished") == 4
    assert (await handle.query("budget"))["granted_tokens"] == 0


async def test_continue_as_new_undoes_nothing(world: World) -> None:
    """A saga knows that a run which continues as new goes on, also in an `except BaseException`."""
    assert await world.run("UndoingAsNew", False) == "as new"


async def test_suspended_without_a_limit_ends(world: World) -> None:
    """An agent that asks for tokens where nothing limits them is not scheduled for ever."""
    [outcome] = await world.run("Sequence", [step("a", "insatiable")])
    assert outcome["error"] == "it was suspended for tokens, and nothing limits the tokens it may spend"
    [outcome] = await world.run("Sequence", [step("a", "insatiable")], budget_tokens=5_000)
    assert outcome["error"] == "workflow token budget cannot pay 5001 tokens more (0 / 5000 tokens used)"


async def test_carried_memo_that_is_wrong_fails_the_run(world: World) -> None:
    """A memo that is not ours is refused by name."""
    handle = await world.client.start_workflow(
        "FanOut", [], id="wrong-memo", task_queue=world.task_queue, memo={wire.CARRIED_MEMO: {"ledger": 3}}
    )
    kind, message = await rejection_of(handle)
    assert kind == "InputRejected"
    assert message.startswith("memo perdure_carried: 'ledger' is 3; ")


@pytest.mark.parametrize("seconds", [None, 60.0], ids=["no limit", "with a limit"])
async def test_cancelled_steps_return_their_grants(world: World, seconds: float | None) -> None:
    """A cancel settles what is in flight, whether or not the steps have limits of their own."""
    handle = await world.start("FanOut", steps(3, "slow", timeout_seconds=seconds), budget_tokens=10_000)

    async def begun() -> bool:
        return (await event_types(handle)).count("step_started") == 3

    await wait_until("three steps have begun", begun)
    await handle.cancel()
    await failure_of(handle)
    assert (await handle.query("budget"))["granted_tokens"] == 0
