"""The entries `[mcp.<name>]` of agents.toml: servers of tools, by program or by address.

Law: a secret is named by its environment variable and stands nowhere in the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, PositiveFloat, model_validator

from workflows.errors import StepFailed

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SERVER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
PREFIX = re.compile(r"[A-Za-z0-9_-]{0,40}")
# Before the name of a tool, of which 64 characters are left in all.
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# A token of RFC 9110.


def _without_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a null character")
    return text


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise ValueError("must be the name of an environment variable: letters, digits and '_'")
    return name


def _prefix(prefix: str) -> str:
    if not PREFIX.fullmatch(prefix):
        raise ValueError("must be at most 40 of A-Z, a-z, 0-9, '_' and '-'")
    return prefix


def _header(name: str) -> str:
    if not HEADER.fullmatch(name):
        raise ValueError("is not the name of an HTTP header")
    return name


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address, as https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password; name a variable in 'headers' instead")
    return url


def _guarded(value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ValueError("must be true, or a list of the names of tools")


Word = Annotated[str, AfterValidator(_without_null)]
Variable = Annotated[str, AfterValidator(_variable)]


class McpServer(BaseModel):
    """A server that speaks the Model Context Protocol: a program of the worker's, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The entry's own key in `[mcp.<name>]`; not written inside it."""
    command: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    """The program and its arguments, spoken to over stdin and stdout; no shell reads them."""
    env: dict[Word, Word] = Field(default_factory=dict)
    """The program's variables, besides HOME, LOGNAME, PATH, SHELL, TERM and USER of the worker's."""
    env_names: tuple[Variable, ...] = ()
    """More of the worker's variables that the program gets: secrets, for one."""
    cwd: Word | None = None
    """Where it runs, seen from the workspace; unset, the workspace."""
    url: Annotated[str, AfterValidator(_address)] | None = None
    """Where the server is, over HTTP."""
    headers: dict[Annotated[str, AfterValidator(_header)], Variable] = Field(default_factory=dict)
    """HTTP headers, each with the environment variable that holds its value."""
    bearer_env: Variable | None = None
    """The environment variable with the token of an `Authorization: Bearer` header."""
    tools: tuple[str, ...] | None = None
    """The tools that are offered, by the server's own names; unset, all of them."""
    prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """Put before the names of its tools."""
    timeout_seconds: PositiveFloat | None = None
    """Limit on one call."""
    requires_approval: Annotated[bool | tuple[str, ...], PlainValidator(_guarded)] = ()
    """Tools that a person is asked about first, by the server's own names; true: all of them."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> McpServer:
        if (self.command is None) == (self.url is None):
            raise ValueError("must have either a 'command' or a 'url'")
        stray = [key for key in self._of_the_other_kind() if key in self.model_fields_set]
        if stray:
            kind = "'command'" if self.command is not None else "'url'"
            raise ValueError(f"has a {kind}, to which {' and '.join(map(repr, stray))} do not belong")
        if self.command is not None and not self.command[0]:
            raise ValueError("has a 'command' whose program has no name")
        if self.bearer_env is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("has both 'bearer_env' and an Authorization header; one of them is enough")
        return self

    @property
    def variables(self) -> tuple[str, ...]:
        """The worker's variables that it is given; what they hold is told to nobody else."""
        bearer = () if self.bearer_env is None else (self.bearer_env,)
        return (*self.env_names, *self.headers.values(), *bearer)

    def _of_the_other_kind(self) -> Iterable[str]:
        return ("headers", "bearer_env") if self.command is not None else ("env", "env_names", "cwd")

    def environment(self) -> dict[str, str]:
        """The program's own variables. Raises `StepFailed` where the worker lacks one."""
        return {**{name: self._value(name) for name in self.env_names}, **self.env}

    def sent_headers(self) -> dict[str, str]:
        """The headers of each request. Raises `StepFailed` where the worker lacks a variable."""
        sent = {header: self._value(name) for header, name in self.headers.items()}
        if self.bearer_env is not None:
            sent["Authorization"] = f"Bearer {self._value(self.bearer_env)}"
        return sent

    def _value(self, name: str) -> str:
        value = os.environ.get(name)
        if not value:
            raise StepFailed(
                f"MCP server {self.name!r} needs the environment variable {name!r}, and the worker has none. "
                "Set it where the worker starts"
            )
        return value
