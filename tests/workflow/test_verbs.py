"""The verbs, to the letter of a3s, on a real server."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client

from tests import programs
from tests.programs import step, steps
from tests.support import World, event_types, events_of, rejection_of, served


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(
        client,
        programs.FanOut,
        programs.Sequence,
        programs.EveryVerb,
        programs.Piped,
        programs.Looped,
        programs.Forgetful,
        programs.Duplicates,
        programs.Oversized,
    ) as world:
        yield world


async def test_agent_returns_the_whole_outcome(world: World) -> None:
    """A step that ends well brings its output, and everything else at its default."""
    [outcome] = await world.run("Sequence", [step("plan", "inspect", "abc")])
    assert outcome.pop("duration_ms") >= 0
    assert outcome == {
        "task_id": "plan",
        "session_id": "task-run-plan",
        "agent": "inspect",
        "output": '{"subject":"abc","findings":3}',
        "success": True,
        "structured": {"subject": "abc", "findings": 3},
        "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
    }


@pytest.mark.parametrize(
    ("spec", "status", "output"),
    [
        pytest.param(step("a", "broken"), "failed", "Task failed: the disk is full", id="the agent failed"),
        pytest.param(step("a", "nobody"), "failed", "Task failed: Unknown agent type: 'nobody'", id="unknown agent"),
        pytest.param(
            step("a", "echo", ""), "failed", "Task failed: child agent returned no final output", id="no output"
        ),
        pytest.param(step("a", "crashing", "k"), "failed", "Task failed: KeyError: 'k'", id="the agent has a fault"),
        pytest.param(
            step("a", "slow", timeout_seconds=0.5),
            "timed_out",
            "Task failed: step 'a' timed out after 500ms",
            id="late",
        ),
        pytest.param(
            step("a", "flaky", max_attempts=2),
            "failed",
            "Task failed: scripted failure (attempt 2 of 2 that fail)",
            id="out of attempts",
        ),
        pytest.param(
            step("a", "verbose", "2000000"),
            "failed",
            "Task failed: step 'a': output is 2.0 MB and the limit is 1.9 MB. "
            "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS).",
            id="result too large",
        ),
    ],
)
async def test_failed_step_is_data(world: World, spec: Any, status: str, output: str) -> None:
    """However a step fails, its run gets an outcome with the failure text, and goes on."""
    failed, after = await world.run("Sequence", [spec, step("after")])
    assert (failed["success"], failed["status"], failed["output"]) == (False, status, output)
    assert after["output"] == "after"


async def test_retryable_failure_is_tried_again(world: World) -> None:
    """An error that another attempt may mend is tried again, and the attempts are counted."""
    [outcome] = await world.run("Sequence", [step("a", "flaky")])
    assert (outcome["output"], outcome["attempts"]) == ("a", 3)


async def test_step_argument_too_large_fails_its_step(world: World) -> None:
    """A prompt that no history takes fails its step before it is scheduled; the run goes on."""
    large, after = await world.run("Oversized", 3_100_000)
    assert large["output"] == (
        "Task failed: step 'large': prompt is 3.1 MB and the limit is 1.9 MB. "
        "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS)."
    )
    assert after["output"] == "after"


async def test_steps_result_too_large_keeps_its_shape(world: World) -> None:
    """Outputs that together pass the limit are replaced by their size and hash, and the report says so."""
    phases = [{"name": "talk", "steps": [step(f"s{n}", "verbose", "700000") for n in range(3)] + [step("short")]}]
    report = await world.run("Steps", phases)
    sha256 = hashlib.sha256(b"x" * 700_000).hexdigest()
    assert [outcome["output"] for outcome in report["phases"][0]["outcomes"]] == [
        *[f"[left out: 700,000 bytes, sha256 {sha256}]"] * 3,
        "short",
    ]
    assert report["left_out"] == "outputs over 10,000 bytes were replaced by their size and hash"


async def test_parallel_keeps_the_order_of_its_specs(world: World) -> None:
    """Output order is input order, whoever ends first."""
    specs = [step("late", "brief"), *steps(20), step("bad", "broken")]
    outcomes = await world.run("FanOut", specs)
    assert [outcome["task_id"] for outcome in outcomes] == [spec.task_id for spec in specs]
    assert [outcome["success"] for outcome in outcomes] == [True] * 21 + [False]


async def test_parallel_of_nothing_is_nothing(world: World) -> None:
    """Empty in, empty out."""
    assert await world.run("FanOut", []) == []


@pytest.mark.parametrize(("window", "at_once"), [(3, 3), (0, 1), (None, 8)], ids=["three", "0 is 1", "default"])
async def test_parallel_slides_a_window(world: World, window: int | None, at_once: int) -> None:
    """As many steps run at once as the run allows, and a slot that falls free is taken at once."""
    options = {} if window is None else {"max_concurrency": window}
    handle = await world.start("FanOut", [step(f"s{n}", "brief" if n == 0 else "echo") for n in range(12)], **options)
    await handle.result()
    running, most, begun_before_first_ended = 0, 0, 0
    for event in await events_of(handle):
        if event["type"] == "step_started":
            running += 1
            begun_before_first_ended += 1
        elif event["type"] == "step_finished":
            running -= 1
            if event["step"] == "c0.0:s0":
                break
        most = max(most, running)
    assert most == at_once
    # While the first, slow one was running, the others went through the slots beside it.
    assert begun_before_first_ended > at_once if at_once > 1 else begun_before_first_ended == 1


async def test_phase_tells_its_events(world: World) -> None:
    """A phase is a barrier with a name: phase_start, its steps, phase_end with the counts."""
    report = await world.run("Steps", [{"name": "only", "steps": [step("a"), step("b", "broken")]}])
    assert [phase["name"] for phase in report["phases"]] == ["only"]
    handle = await world.start("Steps", [{"name": "one", "steps": [step("a")]}, {"name": "two", "steps": []}])
    await handle.result()
    told = [event for event in await events_of(handle) if event["type"].startswith("phase")]
    assert told == [
        {"type": "phase_start", "name": "one", "index": 0, "step_count": 1},
        {"type": "phase_end", "name": "one", "index": 0, "succeeded": 1, "failed": 0},
        {"type": "phase_start", "name": "two", "index": 1, "step_count": 0},
        {"type": "phase_end", "name": "two", "index": 1, "succeeded": 0, "failed": 0},
    ]


async def test_pipeline_chains_end_in_their_own_way(world: World) -> None:
    """None stops a chain, so does a failure; a crash gives None; none of them touches the others."""
    items = ["a", "nothing", "stop", "failure", "crash", "late crash", "b"]
    results = await world.run("Piped", items)
    assert [result and result["output"] for result in results] == [
        "after begin-a",
        None,
        "begin-stop",
        "Task failed: the disk is full",
        None,
        None,
        "after begin-b",
    ]


@pytest.mark.parametrize(
    ("plan", "result"),
    [
        pytest.param(
            {"first": 2, "cap": 5, "stop_after": 2},
            {"last": ["round-1"], "seen": [["s0", "s1"], ["round-1"]]},
            id="until Stop",
        ),
        pytest.param(
            {"first": 1, "cap": 2},
            {"last": ["round-1"], "seen": [["s0"], ["round-1"]]},
            id="until the cap, next called after the last round too",
        ),
        pytest.param({"first": 1, "cap": 0}, {"last": ["s0"], "seen": [["s0"]]}, id="a cap of 0 is 1"),
        pytest.param({"first": 0, "cap": 3}, {"last": [], "seen": []}, id="no specs, next not called"),
        pytest.param({"first": 1, "cap": 3, "runs_dry": True}, {"last": ["s0"], "seen": [["s0"]]}, id="no more specs"),
    ],
)
async def test_loop_runs_rounds(world: World, plan: dict[str, Any], result: dict[str, Any]) -> None:
    """A loop runs rounds until it is told to stop, its cap is reached, or there is nothing more to run."""
    assert await world.run("Looped", plan) == result


async def test_steps_have_an_identity_in_events(world: World) -> None:
    """Steps are named by phase index, or call number outside phases, round and task id."""
    handle = await world.start("EveryVerb", None)
    assert await handle.result() == {
        "agent": "alone",
        "phase": ["s0", "s1", "s2", "Task failed: the disk is full"],
        "pipeline": ["first-a then second", None, None],
        "loop": ["s0++++++"],
    }
    named = sorted({event["step"] for event in await events_of(handle) if "step" in event})
    assert named == [
        "0.0:bad",
        "0.0:s0",
        "0.0:s1",
        "0.0:s2",
        "c0.0:alone",
        "c1.0:first-a",
        "c1.0:first-c",
        "c1.1:second-a",
        "c2.0:s0",
        "c2.0:s1",
        "c2.1:again",
        "c2.2:again",
    ]


@pytest.mark.parametrize("verb", ["parallel", "phase", "loop"])
async def test_duplicate_task_ids_are_refused_before_anything_is_scheduled(world: World, verb: str) -> None:
    """Two steps of one call with the same id are a mistake of the caller."""
    handle = await world.start("Duplicates", verb)
    assert await rejection_of(handle) == (
        "DuplicateTaskIds",
        f"{verb}: task_id 'a' is used by more than one step. Give each step of a call its own.",
    )
    assert "step_started" not in await event_types(handle)


async def test_forgotten_init_is_said(world: World) -> None:
    """A subclass that forgets `super().__init__()` is told so at its first verb."""
    assert await rejection_of(await world.start("Forgetful")) == (
        "NotInitialised",
        "Forgetful.__init__ does not call super().__init__(). Call it on its first line.",
    )


async def test_bad_option_fails_the_run(world: World) -> None:
    """A run option that is not known fails the run by name, before anything is scheduled."""
    handle = await world.start("FanOut", [step("a")], budget_token=3)
    assert await rejection_of(handle) == (
        "OptionsRejected",
        "memo perdure_options: 'budget_token' is not known. Did you mean 'budget_tokens'?",
    )


async def test_bad_input_of_a_users_workflow_fails_the_run(world: World) -> None:
    """What a user's typed `run` cannot take fails the run, instead of retrying its workflow task for ever."""
    handle = await world.start("FanOut", [{"task_id": "a"}])
    kind, message = await rejection_of(handle)
    assert kind == "ValidationError"
    assert "agent" in message


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param(
            {"name": "x"},
            'Steps takes a list of phases, [{"name": …, "steps": […]}]; it was given an object.',
            id="no list",
        ),
        pytest.param(
            [{"name": "x", "steps": [{"task_id": "a", "agent": "echo"}]}],
            "Steps: '0.steps.0.prompt' is missing.",
            id="no prompt",
        ),
    ],
)
async def test_steps_refuses_wrong_input(world: World, argument: Any, message: str) -> None:
    """Plain JSON from any client is refused in our words, at once."""
    assert await rejection_of(await world.start("Steps", argument)) == ("InputRejected", message)
