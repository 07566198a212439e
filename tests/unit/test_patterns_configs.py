"""What a pattern's config may hold, and what it says of a wrong one."""

import inspect
from typing import Any, get_args

import pytest

from workflows.errors import PatternFailed
from workflows.graph.definition import PatternKind
from workflows.patterns.configs import CONFIG_MODELS, LEAST_AGENTS, checked, picked
from workflows.patterns.dispatch import PATTERNS

KINDS: tuple[PatternKind, ...] = get_args(PatternKind)


def test_tables_know_every_pattern() -> None:
    """A pattern that the definition names has a function, a config and a least number of agents."""
    assert list(PATTERNS) == list(CONFIG_MODELS) == list(LEAST_AGENTS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_function_takes_what_its_config_holds(kind: PatternKind) -> None:
    """The keys of a config are the function's parameters, with the same defaults."""
    parameters = inspect.signature(PATTERNS[kind]).parameters
    settings = {name: parameter.default for name, parameter in list(parameters.items())[3:]}
    assert list(parameters)[:3] == ["workflow", "agents", "task"]
    if kind == "adversarial_review":
        assert settings.keys() - {"work"} == CONFIG_MODELS[kind].model_fields.keys()
        return
    defaults = CONFIG_MODELS[kind]().model_dump()
    assert settings == ({**defaults, "items": ()} if kind == "map_reduce" else defaults)


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        pytest.param(
            "swarm_parallel",
            {"synthesizer_index": "1"},
            "config key 'synthesizer_index' is '1', and it takes the index of an agent, counted from 0.",
            id="a text for a number",
        ),
        pytest.param(
            "supervisor",
            {"max_rounds": 0},
            "config key 'max_rounds' is 0, and it takes a whole number from 1.",
            id="out of range",
        ),
        pytest.param(
            "swarm_debate",
            {"rounds": 2.5},
            "config key 'rounds' is 2.5, and it takes a whole number from 1.",
            id="half a round",
        ),
        pytest.param("map_reduce", {"items": "a,b"}, "config key 'items' is 'a,b', and it takes a list.", id="no list"),
        pytest.param(
            "map_reduce",
            {"items": [], "max_concurrent": True},
            "config key 'max_concurrent' is True, and it takes a whole number from 1.",
            id="true is no number",
        ),
        pytest.param(
            "fleet",
            {"timeout_secs": float("inf")},
            "config key 'timeout_secs' is inf, and it takes a number of seconds above 0, ten years at most.",
            id="for ever",
        ),
        pytest.param(
            "vote",
            {"quorum": 1.5, "choices": ["a", ""]},
            "config key 'quorum' is 1.5, and it takes a number above 0 and at most 1; "
            "config key 'choices' is ['a', ''], and it takes a list of texts, none of them empty.",
            id="two at once",
        ),
        pytest.param(
            "adversarial_review",
            {"criteria": [1]},
            "config key 'criteria' is [1], and it takes a text, or a list of texts; "
            "config key 'review_key' is missing, and it takes the state key that holds the work.",
            id="one wrong, one missing",
        ),
    ],
)
def test_wrong_config_names_its_keys(kind: PatternKind, given: dict[str, Any], told: str) -> None:
    """The message says which key, what was found, and what it takes."""
    with pytest.raises(PatternFailed) as failed:
        checked(kind, CONFIG_MODELS[kind], given)
    assert (failed.value.message, failed.value.outputs) == (f"stage '{kind}' failed: {told}", ())


def test_picked_names_the_agents_that_there_are() -> None:
    """An index beyond the agents is refused; no index picks nobody."""
    assert picked("vote", "synthesizer_index", 1, ["a", "b"]) == "b"
    assert picked("vote", "synthesizer_index", None, ["a", "b"]) is None
    with pytest.raises(PatternFailed) as failed:
        picked("vote", "synthesizer_index", 2, ["a", "b"])
    assert (
        failed.value.message == "stage 'vote' failed: config key 'synthesizer_index' is 2, and the agents have 0 to 1."
    )
