"""What is told of a text that may quote a secret, and of a value that cannot be read."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from activities.secrets import without_secrets, without_values


def test_secrets_are_known_by_their_variables_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what such names hold, or because one is told; a short value is a word of any text."""
    for name, value in {"SOME_API_KEY": "sk-live-1", "TENANT": "house-of-cards", "A_TOKEN": "short"}.items():
        monkeypatch.setenv(name, value)
    text = "sk-live-1 of house-of-cards is short"
    assert without_secrets(text) == "[secret] of house-of-cards is short"
    assert without_secrets(text, ("TENANT", None)) == "[secret] of [secret] is short"


def test_secret_that_begins_with_another_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two variables was set first."""
    monkeypatch.setenv("FIRST_KEY", "sk-project")
    monkeypatch.setenv("SECOND_KEY", "sk-project-and-more")
    assert without_secrets("refused: sk-project-and-more") == "refused: [secret]"


class Answer(BaseModel):
    """Four fields that all have to be there."""

    a: int
    b: int
    c: int
    d: int


def test_faults_of_a_value_are_told_without_it() -> None:
    """By place, the first three; what was given is nowhere."""
    with pytest.raises(ValidationError) as refused:
        Answer.model_validate({"a": "sk-live-1"})
    assert without_values(refused.value) == (
        "a: Input should be a valid integer, unable to parse string as an integer; b: Field required; "
        "c: Field required; and 1 more"
    )
    with pytest.raises(ValidationError) as refused:
        Answer.model_validate("sk-live-1")
    assert without_values(refused.value) == ("the value: Input should be a valid dictionary or instance of Answer")
