"""What `perdure run` makes of its arguments, before it starts anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import starter
from runtime.commands.histories import default_path, read_history
from runtime.commands.inputs import read_input
from runtime.commands.options import Common, Fault
from runtime.commands.run import default_id, run_options
from runtime.commands.steering import budget_change
from runtime.commands.targets import Target, resolve
from workflows.errors import InputRejected, OptionsRejected

PHASES = [{"name": "plan", "steps": [{"task_id": "a", "agent": "echo", "prompt": "hello"}]}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_json_file_starts_steps() -> None:
    """A .json file is the input of Steps, and the summary names its phases."""
    Path("plan.json").write_text(json.dumps(PHASES))
    assert resolve("plan.json", []) == Target("Steps", [PHASES], "plan.json: plan")


def test_type_takes_the_input() -> None:
    """A workflow type is started with the input as it is."""
    assert resolve("Refactor", [{"task": 1}]) == Target("Refactor", [{"task": 1}], "Refactor by perdure run")


def test_class_is_started_by_its_type() -> None:
    """MODULE:CLASS is imported, started by its workflow type, and remembered for --local."""
    assert resolve("workflows:Steps", []) == Target("Steps", [], "Steps by perdure run", "workflows:Steps")


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("absent.json", [], "'absent.json' cannot be read (No such file or directory)."),
        (
            "notes.txt",
            [],
            "'notes.txt' is a file, and perdure run reads .json, .yaml and .yml files. "
            "Rename it, or name a workflow type.",
        ),
        ("broken.json", [], "broken.json:2:1: this is no JSON (Expecting value)."),
        ("latin.json", [], "'latin.json' is no UTF-8 text (byte 2)."),
        ("nan.json", [], "nan.json:1:2: JSON has no NaN."),
        ("plan.json", [1], "'plan.json' is the run's input itself. Leave INPUT, --input and --input-file out."),
        ("Steps", [], "Steps takes a list of phases. Give it as INPUT, with --input-file, or name a file of it."),
    ],
)
def test_target_is_refused(target: str, arguments: list[Any], message: str) -> None:
    """What cannot be started is refused, with what was found and what to do."""
    Path("notes.txt").write_text("x")
    Path("broken.json").write_text("[\n")
    Path("latin.json").write_bytes(b'["\xe9"]')
    Path("nan.json").write_text("[NaN]")
    with pytest.raises(Fault) as caught:
        resolve(target, arguments)
    assert (caught.value.message, caught.value.exit_code) == (message, 2)


def test_steps_input_is_checked_here() -> None:
    """A mistake in the phases is told before anything is started."""
    with pytest.raises(InputRejected) as caught:
        resolve("Steps", [[{"name": "plan"}]])
    assert caught.value.message == "Steps: '0.steps' is missing."


def test_input_is_read_from_each_source(tmp_path: Path) -> None:
    """The input comes as an argument, an option or a file; without one the run gets none."""
    (tmp_path / "in.json").write_text("[3]")
    assert [
        read_input("1", None, None),
        read_input(None, '"two"', None),
        read_input(None, None, "in.json"),
        read_input(None, None, None),
    ] == [[1], ["two"], [[3]], []]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1", "2", None), "The input is given by INPUT and by --input. Give it once."),
        (
            ("hello", None, None),
            "INPUT:1:1: this is no JSON (Expecting value). A text is written in double quotes: '\"text\"'.",
        ),
        ((None, '{"a": 1e999}', None), "--input:1:7: the number 1e999 is too large."),
        (
            (None, '["\\ud800"]', None),
            "--input:1:2: a text holds half a character (a surrogate without its pair). Write the character itself.",
        ),
        (("[" * 90_000, None, None), "INPUT:1:201: the document is nested more than 200 levels deep. Flatten it."),
    ],
    ids=["twice", "a bare word", "a number of no size", "half a character", "depth"],
)
def test_input_is_refused(given: tuple[str | None, str | None, str | None], message: str) -> None:
    """An input that is given twice, or is no JSON, is refused."""
    with pytest.raises(Fault) as caught:
        read_input(*given)
    assert caught.value.message == message


def test_run_options_leave_out_what_is_unset() -> None:
    """The memo holds the options that were given, under the names that RunOptions knows."""
    given = {"budget_tokens": 0, "budget_usd": None, "on_exhausted": "wait", "step_timeout": 2.5, "max_attempts": None}
    assert run_options(given) == {"budget_tokens": 0, "on_exhausted": "wait", "step_timeout_seconds": 2.5}


def test_run_options_refuse_a_weight_without_a_key() -> None:
    """What the flags allow one by one may not go together, and is told before anything is started."""
    with pytest.raises(OptionsRejected) as refused:
        run_options({"fairness_key": None, "fairness_weight": 2.0})
    assert refused.value.message == (
        "the run options: 'fairness_weight' is 2.0; it is the weight of a fairness_key, and there is none."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"budget_usd": float("nan")},
            "the run options: 'budget_usd' is NaN; input should be a finite number.",
        ),
        (
            {"step_timeout": 1e300},
            "the run options: 'step_timeout_seconds' is 1e+300; input should be less than or equal to 315360000.",
        ),
    ],
    ids=["no number", "too long"],
)
def test_run_options_are_refused(given: dict[str, Any], message: str) -> None:
    """What no run takes is told before one is started."""
    with pytest.raises(OptionsRejected) as caught:
        run_options(given)
    assert caught.value.message == message


def test_argument_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are no UTF-8 could be neither stored nor shown."""
    assert starter.invoke(["run", "Steps", "[]", "--id", "a\udcffb"]) == 2
    assert capsys.readouterr().err == "The argument 'a\\udcffb' is no UTF-8 text.\n"


def test_default_id_tells_type_and_time() -> None:
    """The id of a run that gets none: type, date, time and four hex digits."""
    kind, date, time, random = default_id("Steps").split("-")
    assert (kind, len(date), len(time), len(random)) == ("steps", 8, 6, 4)
    assert int(random, 16) >= 0


@pytest.mark.parametrize(
    ("tokens", "usd", "change"),
    [
        (None, None, {}),
        (500, None, {"limit_tokens": 500}),
        ("none", 0.5, {"limit_tokens": None, "limit_usd": 0.5}),
    ],
    ids=["nothing", "tokens", "none and dollars"],
)
def test_budget_change_names_what_was_given(tokens: Any, usd: Any, change: dict[str, Any]) -> None:
    """Only the limits that were named are in the signal; `none` takes one away."""
    assert budget_change(tokens, usd) == change


def test_recorded_file_has_a_safe_name() -> None:
    """A workflow id may hold anything; the file name does not."""
    assert str(default_path("Steps", "a/b ../c")) == "tests/replay/histories/Steps-a_b_.._c.json"


@pytest.mark.parametrize(
    ("common", "place"),
    [
        (Common(), ""),
        (Common(is_local=True), " --local"),
        (Common("host:7233", "a b"), " --address host:7233 --namespace 'a b'"),
    ],
    ids=["environment", "local", "options"],
)
def test_place_is_given_again(common: Common, place: str) -> None:
    """A command that is proposed names Temporal as this one did."""
    assert common.place == place


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"events": 1}'])
def test_history_that_is_none_is_refused(text: str) -> None:
    """A file that is no history is refused by name."""
    Path("h.json").write_text(text)
    with pytest.raises(Fault, match=r"^'h\.json' is no history as `perdure record` writes it"):
        read_history(Path("h.json"))
