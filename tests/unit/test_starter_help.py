"""The help: there at once, and true to what the subcommands say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import starter

ROOT = Path(__file__).parents[2]

LOADED = """
import sys
import starter
code = starter.invoke(["--help"])
heavy = {"temporalio", "pydantic", "pydantic_core", "rich", "structlog", "workflows"}
sys.stderr.write(f"{code} {sorted(heavy & set(sys.modules))}")
"""


def test_help_loads_no_sdk() -> None:
    """The help names every subcommand and loads none of the heavy packages."""
    ran = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stderr == "0 []"
    assert [line.split()[0] for line in ran.stdout.partition("Commands:\n")[2].splitlines()] == list(
        starter.SUBCOMMANDS
    )


@pytest.mark.parametrize("name", list(starter.SUBCOMMANDS))
def test_help_says_what_the_subcommand_says(name: str) -> None:
    """The summary in the group's table is how the subcommand's own help begins, and each takes the shared options."""
    found = starter.command.get_command(click.Context(starter.command), name)
    assert found is not None
    assert found.help is not None
    told = " ".join(found.help.split())
    assert told.startswith(starter.SUBCOMMANDS[name][1].rstrip("."))
    assert {"--address", "--namespace", "--local", "--json"} <= {option for one in found.params for option in one.opts}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "No such command 'lst'. See `perdure --help`.\n"),
        (
            ["budget", "--set", "1.5"],
            "Invalid value for '--set': '1.5' is no limit. It takes a whole number of at least 0, or 'none'. "
            "See `perdure budget --help`.\n",
        ),
        (
            ["list", "--local", "--address", "localhost:7233"],
            "--local brings a server of its own. Leave --address and --namespace out, or --local.\n",
        ),
    ],
    ids=["unknown subcommand", "no limit", "local and an address"],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage exits 2 with what was found and where the help is."""
    assert starter.invoke(arguments) == 2
    assert capsys.readouterr() == ("", message)


def test_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of perdure's own is told by type and text, without a traceback, and has an exit code of its own."""
    monkeypatch.setitem(starter.SUBCOMMANDS, "list", ("reading:absent", ""))
    monkeypatch.delenv("PERDURE_TRACEBACK", raising=False)
    assert starter.invoke(["list"]) == 70
    assert capsys.readouterr().err == (
        "AttributeError: module 'runtime.commands.reading' has no attribute 'absent'\n"
        "This is a fault of perdure's own. PERDURE_TRACEBACK=1 shows where.\n"
    )


@pytest.mark.parametrize(("value", "is_shown"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_traceback_is_shown_where_it_is_asked_for(
    value: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PERDURE_TRACEBACK takes what the settings take for yes and no."""
    monkeypatch.setitem(starter.SUBCOMMANDS, "list", ("reading:absent", ""))
    monkeypatch.setenv("PERDURE_TRACEBACK", value)
    assert starter.invoke(["list"]) == 70
    assert ("Traceback (most recent call last):" in capsys.readouterr().err) is is_shown
