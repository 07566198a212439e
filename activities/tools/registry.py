"""The tools that a worker serves: typed Python functions, described to callers by the JSON Schema of their signature.

Law: a tool was checked when it was registered, and its parameters are checked before it is called.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, Required, TypeVar, get_args, get_type_hints

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaFault
from pydantic import ConfigDict, Field, JsonValue, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined, to_jsonable_python
from typing_extensions import TypedDict  # of typing, pydantic takes it from Python 3.12 on

from activities.tools.context import ToolContext
from workflows.errors import cut

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# What every model provider takes as the name of a tool.
OPTIONS = "__perdure_tool__"
QUOTED_CHARACTERS = 300
# A fault quotes the parameter that is wrong.

_shape: Any = TypedDict
# Any, for mypy takes a call of TypedDict for the definition of a type, and these fields are known at run time alone.

F = TypeVar("F", bound=Callable[..., Any])


class ParametersRejected(Exception):
    """The parameters of a call are not what its tool takes; the text names each fault."""


@dataclass(frozen=True, slots=True)
class _Options:
    name: str | None = None
    requires_approval: bool = False
    timeout_seconds: float | None = None


def tool(
    *, name: str | None = None, requires_approval: bool = False, timeout_seconds: float | None = None
) -> Callable[[F], F]:
    """Say more about a function that is registered as a tool; it stays the function that it is.

    `name` is what callers use instead of the function's own. `timeout_seconds` limits one attempt of a call that sets
    no limit itself. `requires_approval` has a person asked before a model agent calls it.
    """

    def mark(function: F) -> F:
        setattr(function, OPTIONS, _Options(name, requires_approval, timeout_seconds))
        return function

    return mark


@dataclass(frozen=True, slots=True)
class Tool:
    """A registered tool."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    """JSON Schema of an object."""
    function: Callable[..., Any]
    is_async: bool
    context_parameter: str | None
    """The name of the parameter that takes the `ToolContext`, if the function has one."""
    requires_approval: bool
    timeout_seconds: float | None
    _arguments: TypeAdapter[dict[str, Any]]
    _schema: Draft202012Validator

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool:
        """A typed function, `def` or `async def`, as a tool.

        Raises ValueError, saying what is wrong with it, where it cannot be one.
        """
        _refuse_what_is_no_function(function)
        options = getattr(function, OPTIONS, _Options())
        name = options.name or function.__name__
        if not NAME.fullmatch(name):
            raise ValueError(f"has the name {cut(name)!r}; the name of a tool is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
        description, told = _read_docstring(inspect.getdoc(function) or "")
        fields, context_parameter = _fields(function, told)
        arguments = _adapter(fields)
        schema = _json_schema(arguments, function)
        return cls(
            name=name,
            description=description,
            parameters=schema,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            context_parameter=context_parameter,
            requires_approval=options.requires_approval,
            timeout_seconds=options.timeout_seconds,
            _arguments=arguments,
            _schema=Draft202012Validator(schema),
        )

    def arguments(self, parameters: Mapping[str, JsonValue]) -> dict[str, Any]:
        """What the function is called with. Raises `ParametersRejected`, naming each fault."""
        faults = [*self._missing(parameters), *self._unknown(parameters), *self._mistyped(parameters)]
        if faults:
            raise ParametersRejected("; ".join(faults))
        try:
            return self._arguments.validate_python(dict(parameters))
        except ValidationError as error:  # what a type asks for beyond its JSON Schema
            first = error.errors(include_url=False, include_input=False)[0]
            raise ParametersRejected(self._fault(first["loc"], first["msg"])) from None

    def _missing(self, parameters: Mapping[str, JsonValue]) -> Iterable[str]:
        required = self.parameters.get("required", [])
        for name in required if isinstance(required, list) else ():
            if name not in parameters:
                yield f"missing required parameter '{name}' for tool '{self.name}'"

    def _unknown(self, parameters: Mapping[str, JsonValue]) -> Iterable[str]:
        known = self.parameters["properties"]
        names = list(known) if isinstance(known, dict) else []
        for name in parameters:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"; the nearest known one is '{near[0]}'" if near else ""
                yield f"unknown parameter '{cut(name)}' for tool '{self.name}'{hint}"

    def _mistyped(self, parameters: Mapping[str, JsonValue]) -> Iterable[str]:
        fault: SchemaFault
        for fault in self._schema.iter_errors(parameters):
            if fault.absolute_path:  # the others are missing or unknown, and told in our words
                yield self._fault(fault.absolute_path, fault.message)

    def _fault(self, path: Iterable[Any], message: str) -> str:
        place = ".".join(str(part) for part in path)
        return f"parameter '{cut(place)}' for tool '{self.name}': {cut(message, QUOTED_CHARACTERS)}"


def _refuse_what_is_no_function(function: Any) -> None:
    if not inspect.isroutine(function):
        kind = "a class" if inspect.isclass(function) else f"of type {type(function).__name__!r}"
        raise ValueError(f"is {kind}; a tool is a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError("yields; a tool returns its result once")


def _fields(function: Callable[..., Any], told: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """The type of each parameter, and the name of the one for the context."""
    hints, signature = _signature(function)
    fields: dict[str, Any] = {}
    context_parameter = None
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"has the parameter {name!r}, which cannot be passed by name; give it one of that kind")
        if name not in hints:
            raise ValueError(f"has the parameter {name!r} without a type; give each parameter one")
        if hints[name] is ToolContext or ToolContext in get_args(hints[name]):
            context_parameter = name
            continue
        kind = hints[name]
        if name in told:
            kind = Annotated[kind, Field(description=told[name])]
        fields[name] = Required[kind] if parameter.default is parameter.empty else NotRequired[kind]
    return fields, context_parameter


def _signature(function: Callable[..., Any]) -> tuple[dict[str, Any], inspect.Signature]:
    try:
        return get_type_hints(function, include_extras=True), inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"has types that cannot be read: {error}") from None


def _adapter(fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    # A TypedDict takes any parameter name; a model's would clash with the names of its own attributes.
    shape = _shape("Parameters", fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    try:
        return TypeAdapter(shape)
    except PydanticUserError as error:
        raise ValueError(f"has a parameter of a type that JSON cannot hold: {error.message.splitlines()[0]}") from None


class _WithoutTitles(GenerateJsonSchema):
    """Titles repeat the names of parameters, at a price where a model reads them."""

    def get_title_from_name(self, name: str) -> str:
        return ""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _json_schema(arguments: TypeAdapter[dict[str, Any]], function: Callable[..., Any]) -> dict[str, JsonValue]:
    try:
        schema: dict[str, Any] = arguments.json_schema(schema_generator=_WithoutTitles)
    except PydanticUserError as error:
        raise ValueError(f"has a parameter of a type that JSON cannot hold: {error.message.splitlines()[0]}") from None
    for described in (schema, *schema.get("$defs", {}).values()):
        described.pop("title", None)
    schema.setdefault("properties", {})
    for name, parameter in inspect.signature(function).parameters.items():
        if name in schema["properties"] and parameter.default is not parameter.empty:
            default = to_jsonable_python(parameter.default, fallback=lambda _: PydanticUndefined)
            if default is not PydanticUndefined:
                schema["properties"][name]["default"] = default
    return schema


ARGUMENTS = re.compile(r"^(?:Args|Arguments|Parameters):\s*$", re.MULTILINE)
SECTION = re.compile(r"^\w[\w ]*:\s*$", re.MULTILINE)
ARGUMENT = re.compile(r"^\s+(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description, and what the docstring's `Args:` section (Google style) says of each parameter."""
    found = ARGUMENTS.search(text)
    if found is None:
        return text.strip(), {}
    after = text[found.end() :]
    following = SECTION.search(after)
    told: dict[str, str] = {}
    name = None
    for line in (after[: following.start()] if following else after).splitlines():
        argument = ARGUMENT.match(line)
        if argument:
            name = argument[1]
            told[name] = argument[2].strip()
        elif name and line.strip():
            told[name] += f" {line.strip()}"
    return text[: found.start()].strip(), told


class Toolbox:
    """The tools of a worker, by name."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}

    @classmethod
    def builtin(cls) -> Toolbox:
        """The tools that every worker has."""
        from activities.tools.calculate import calculate
        from activities.tools.files import edit_file, list_dir, read_file, write_file
        from activities.tools.searching import find_files, grep_files

        functions = (read_file, list_dir, find_files, grep_files, calculate, write_file, edit_file)
        return cls(Tool.of(function) for function in functions)

    def with_tool(self, added: Tool) -> Toolbox:
        """These tools and another one. Raises ValueError where its name is taken."""
        if added.name in self._tools:
            raise ValueError(f"has the name {added.name!r}, which another tool has; give it one by @tool(name=…)")
        return Toolbox([*self._tools.values(), added])

    def get(self, name: str) -> Tool | None:
        """A tool; None where there is none of this name."""
        return self._tools.get(name)

    def names(self) -> tuple[str, ...]:
        """The tools' names, sorted."""
        return tuple(sorted(self._tools))
