"""agents.toml: what is read, and what is said about what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from activities.registry import AgentFunction, CommandAgent, EchoAgent, FunctionAgent, Registry
from workflows.errors import AgentsRejected

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Writes agents.toml where the test runs, and names it as an operator would."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("agents.toml").write_text(dedent(text), encoding="utf-8")
        return Path("agents.toml")

    return write


def _refusal(path: Path) -> str:
    with pytest.raises(AgentsRejected) as rejected:
        Registry.load(path)
    return rejected.value.message


def test_registry_reads_each_executor(written: Written) -> None:
    """Each entry becomes the model of its executor, defaults filled in."""
    registry = Registry.load(
        written(
            f"""
            default_model = "openai:gpt-5-mini"
            [agents.lint]
            executor = "command"
            command = ["ruff", "check", "-"]
            env = {{ RUFF_NO_CACHE = "1" }}
            timeout_seconds = 30
            [agents.inspect]
            executor = "function"
            function = "{__name__}:inspect_step"
            description = "Looks closely."
            [agents.demo]
            executor = "echo"
            tokens = 100
            """
        )
    )
    assert registry.names() == ("demo", "inspect", "lint")
    assert registry.default_model == "openai:gpt-5-mini"
    assert [registry.get(name) for name in (*registry.names(), "nobody")] == [
        EchoAgent(name="demo", tokens=100),
        FunctionAgent(name="inspect", function=f"{__name__}:inspect_step", description="Looks closely."),
        CommandAgent(
            name="lint",
            command=("ruff", "check", "-"),
            env={"RUFF_NO_CACHE": "1"},
            timeout_seconds=30,
            max_output_bytes=1_000_000,
        ),
        None,
    ]


def test_registry_may_be_empty(written: Written) -> None:
    """A worker may serve no agent."""
    assert Registry.empty().names() == Registry.load(written("")).names() == ()


def test_registry_tells_everything_that_is_wrong(written: Written) -> None:
    """All problems of a file stand in one message, one line each, each with the name of what it is about."""
    path = written(
        """
        default_modell = "x"
        default_model = 3
        [agents.lint]
        executor = "comand"
        [agents.none]
        description = "says nothing"
        [agents.typo]
        executor = "command"
        comand = ["ls"]
        [agents.far]
        executor = "echo"
        zebra = 1
        delay_seconds = -1
        [agents.secret]
        executor = "command"
        command = ["ls"]
        env = { TOKEN = 12345 }
        [agents.nul]
        executor = "command"
        command = []
        """
    )
    assert _refusal(path).splitlines() == [
        "agents.toml: the unknown top-level key 'default_modell'; the nearest known one is 'default_model'.",
        "agents.toml: 'default_model' must be the name of a model, as text.",
        "agents.toml: agent 'lint' names the executor 'comand'. "
        "The executors are 'command', 'echo', 'function' and 'model'.",
        "agents.toml: agent 'none' does not say its executor. "
        "The executors are 'command', 'echo', 'function' and 'model'.",
        "agents.toml: agent 'typo' has the unknown key 'comand'; the nearest known one is 'command'.",
        "agents.toml: agent 'typo': the key 'command' is missing.",
        "agents.toml: agent 'far' has the unknown key 'zebra'. The known ones are 'answer', 'cost_usd', "
        "'delay_seconds', 'description', 'executor', 'fail', 'fail_attempts', 'timeout_seconds', 'tokens' and 'turns'.",
        "agents.toml: agent 'far': 'delay_seconds' is -1: input should be greater than or equal to 0.",
        "agents.toml: agent 'secret': 'env.TOKEN': input should be a text.",
        "agents.toml: agent 'nul': 'command' is []: list should have at least 1 item, not 0.",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('a = "x"\n[agents\n', "agents.toml:2:8: this is not TOML: Expected ']' at the end of a table declaration."),
        ("a", "agents.toml: this is not TOML: Expected '=' after a key in a key/value pair at the end of the file."),
        ("agents = 1", "agents.toml: 'agents' must hold one table for each agent, as [agents.<name>]."),
        ("[agents]\nx = 1", "agents.toml: agent 'x' must be a table, [agents.x]."),
    ],
)
def test_registry_places_what_is_no_registry(written: Written, text: str, told: str) -> None:
    """A syntax error is told with its line and column, a wrong shape with the right one."""
    assert _refusal(written(text)) == told


def test_registry_tells_why_a_file_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file and one that is no text are told without a traceback."""
    monkeypatch.chdir(tmp_path)
    assert _refusal(Path("gone.toml")) == "gone.toml: the file cannot be read: No such file or directory."
    Path("binary.toml").write_bytes(b"ab\xff")
    assert _refusal(Path("binary.toml")) == "binary.toml: the file is not UTF-8 text: byte 2 does not belong there."


def inspect_step(step: object, context: object) -> str:
    return "seen"


async def with_step(step: object) -> str:
    return "seen"


def with_option(step: object, verbose: bool = False) -> str:
    return "seen"


def with_optional_context(step: object, context: object = None) -> str:
    return "seen"


def without_step() -> str:
    return "seen"


def of_three(step: object, context: object, more: object) -> str:
    return "seen"


def yielding(step: object) -> Iterator[str]:
    yield "seen"


class Answering:
    async def __call__(self, step: object, context: object) -> str:
        return "seen"


answering = Answering()
number = 3


@pytest.mark.parametrize(
    ("name", "is_async", "takes_context"),
    [
        ("inspect_step", False, True),
        ("with_step", True, False),
        ("with_option", False, False),
        ("with_optional_context", False, True),
        ("answering", True, True),
    ],
)
def test_function_agent_is_called_as_it_is_written(name: str, is_async: bool, takes_context: bool) -> None:
    """The signature decides what a function gets; a second parameter with a default only if it is the context."""
    found = FunctionAgent(name="x", function=f"{__name__}:{name}").resolve()
    assert found == AgentFunction(callable=globals()[name], is_async=is_async, takes_context=takes_context)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("nocolon", "is not written as 'module:attribute'."),
        ("no_such_module:x", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'."),
        (f"{__name__}:nothing", f"is missing: module '{__name__}' has no 'nothing'."),
        (f"{__name__}:number", "is of type 'int'; an agent is a function."),
        (f"{__name__}:Answering", "is a class; an agent is a function."),
        (f"{__name__}:without_step", "takes () -> 'str'; an agent takes (step) or (step, context)."),
        (
            f"{__name__}:of_three",
            "takes (step: 'object', context: 'object', more: 'object') -> 'str'; "
            "an agent takes (step) or (step, context).",
        ),
        (f"{__name__}:yielding", "yields; an agent returns its answer once."),
    ],
)
def test_registry_refuses_a_function_that_cannot_serve(written: Written, function: str, told: str) -> None:
    """A function agent is imported and checked when the file is loaded, so the worker's start says it."""
    path = written(f'[agents.f]\nexecutor = "function"\nfunction = "{function}"')
    assert _refusal(path) == f"agents.toml: agent 'f': function '{function}' {told}"
