"""What a process says about itself, and what it never says."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, TypeAdapter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.agents import AgentActivities
from activities.registry import EchoAgent, Registry
from runtime import logs
from workflows.errors import SettingsRejected
from workflows.steps import AgentStepSpec, StepCall

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The lines written since the last call, parsed, without their time."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    logs.configure("info", "json", stream)

    def read() -> list[dict[str, Any]]:
        written = [json.loads(line) for line in stream.getvalue().splitlines()]
        stream.seek(0)
        stream.truncate()
        for line in written:
            assert line.pop("timestamp").endswith("Z")
        return written

    yield read
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    structlog.reset_defaults()


def test_logs_write_one_json_object_for_each_event(lines: Lines) -> None:
    """structlog and the standard library end in the same form."""
    structlog.get_logger("perdure.test").info("serving", task_queue="perdure", agents=["a"])
    logging.getLogger("other").warning("%s is slow", "disk")
    logging.getLogger("other").debug("not at this level")
    assert lines() == [
        {"event": "serving", "level": "info", "logger": "perdure.test", "task_queue": "perdure", "agents": ["a"]},
        {"event": "disk is slow", "level": "warning", "logger": "other"},
    ]


def test_logs_take_the_sdks_details_as_fields(lines: Lines) -> None:
    """What the SDK appends to its text arrives as fields of its own instead."""
    about = {"workflow_id": "w1", "attempt": 1}
    logging.getLogger("temporalio.workflow").info(f"hello ({about})", extra={"temporal_workflow": about})
    assert lines() == [
        {
            "event": "hello",
            "level": "info",
            "logger": "temporalio.workflow",
            "temporal_workflow_id": "w1",
            "temporal_attempt": 1,
        }
    ]


class Stored(BaseModel):
    text: str


def test_logs_withhold_secrets_and_what_runs_store(lines: Lines) -> None:
    """Secrets, contents, models and bytes are told by their kind and length; counts stay."""
    structlog.get_logger("perdure.test").info(
        "step", OPENAI_API_KEY="sk-1", prompt="the plan", found=Stored(text="the plan"), raw=b"plan",
        usage={"input_tokens": 3, "output": "the plan"}, long="x" * 9_000,
    )  # fmt: skip
    assert lines() == [
        {
            "event": "step",
            "level": "info",
            "logger": "perdure.test",
            "OPENAI_API_KEY": "(secret)",
            "prompt": "(str, 8 long)",
            "found": "(Stored)",
            "raw": "(4 bytes)",
            "usage": {"input_tokens": 3, "output": "(str, 8 long)"},
            "long": "x" * 8_000 + "… (9,000 characters)",
        }
    ]


def test_logs_tell_a_users_mistake_in_one_sentence(lines: Lines) -> None:
    """An error whose type says who must act comes without a traceback."""
    try:
        raise SettingsRejected("PERDURE_AGENTS is wrong.")
    except SettingsRejected:
        logging.getLogger("x").exception("cannot serve")
    told = "SettingsRejected: PERDURE_AGENTS is wrong."
    assert lines() == [
        {
            "event": "cannot serve",
            "level": "error",
            "logger": "x",
            "error": told,
        }
    ]


async def test_logs_tell_an_attempt_that_is_made_again_in_a_sentence(lines: Lines) -> None:
    """A step that is tried again has said why; a traceback would tell of perdure alone."""
    registry = Registry([EchoAgent(name="a", fail_attempts=1)])
    call = StepCall(spec=AgentStepSpec(task_id="t", agent="a", prompt="x"), key="k")
    with ThreadPoolExecutor(1) as threads:
        step = AgentActivities(registry, None, threads=threads)
        try:
            await ActivityEnvironment().run(step.run_agent_step, call)
        except ApplicationError:
            logging.getLogger("temporalio.activity").exception("Completing activity as failed")
    [told] = lines()
    assert told["error"] == "RetryableStepError: scripted failure (attempt 1 of 1 that fail)"
    assert "exception" not in told


def test_logs_name_what_the_sdk_raised_by_itself(lines: Lines) -> None:
    """Its traceback shows nothing that one could mend; an error without a text has its type at least."""
    try:
        asyncio.Queue[str]().get_nowait()
    except asyncio.QueueEmpty as error:
        trace = error.__traceback__
        assert trace is not None
        logging.getLogger("x").exception("a task ended", exc_info=error.with_traceback(trace.tb_next))
    assert lines() == [{"event": "a task ended", "level": "error", "logger": "x", "error": "QueueEmpty"}]


def test_logs_keep_values_out_of_validation_errors(lines: Lines) -> None:
    """pydantic quotes what it was given; the log does not, neither as the error nor inside a traceback."""
    given = {"text": ["sk-" + "live-1"]}
    try:
        TypeAdapter(Stored).validate_python(given)
    except ValueError as error:
        logging.getLogger("x").exception("bad input")
        try:
            raise RuntimeError("gave up") from error
        except RuntimeError:
            logging.getLogger("x").exception("bad run")
    told, traced = lines()
    assert told["error"] == "Stored cannot be read: text: Input should be a valid string"
    assert "sk-live-1" not in json.dumps(traced)
    assert traced["exception"].splitlines()[-1] == "RuntimeError: gave up"


def test_logs_show_no_local_variables_on_a_terminal() -> None:
    """The readable form prints a plain traceback."""
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    try:
        hidden = "sk-" + "live-2"
        raise RuntimeError(f"it has {len(hidden)} characters")
    except RuntimeError:
        structlog.get_logger("x").exception("failed")
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = [
            handler for handler in logging.getLogger().handlers if not isinstance(handler, logs._Handler)
        ]
    assert "RuntimeError: it has 9 characters" in stream.getvalue()
    assert "sk-live-2" not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "library_level", "told"),
    [
        ("debug", None, ["perdure.test debug", "httpx warning"]),
        ("error", None, []),
        ("info", "debug", ["httpx debug", "httpx warning"]),
    ],
    ids=["debugging", "errors only", "libraries asked for"],
)
def test_logs_leave_libraries_out_unless_they_are_asked_for(
    lines: Lines, level: str, library_level: str | None, told: list[str]
) -> None:
    """perdure's level is its own: what a model's client tells of each request hides what perdure does."""
    stream = io.StringIO()
    logs.configure(level, "json", stream, library_level=library_level)
    structlog.get_logger("perdure.test").debug("a step")
    logging.getLogger("httpx").debug("a request")
    logging.getLogger("httpx").warning("a request failed")
    logs.configure("info", "json", stream)
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [f"{line['logger']} {line['level']}" for line in written] == told
    assert lines() == []


def test_logs_configured_again_write_once(lines: Lines) -> None:
    """A second configuration replaces the first."""
    again = io.StringIO()
    logs.configure("info", "json", again)
    structlog.get_logger("x").info("once")
    assert lines() == []
    assert len(again.getvalue().splitlines()) == 1
