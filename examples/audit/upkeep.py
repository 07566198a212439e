"""The rules about how hard the code is to keep: size, shape, and what it says of itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from examples.audit.findings import Limits
from examples.audit.source import FUNCTIONS, FunctionNode, Source, code_lines, complexity, dotted

Found = Iterator[tuple[int, str]]

MARKER = re.compile(r"#+\s*(?P<marker>TODO|FIXME|XXX|HACK)\b(?P<rest>.*)")
OWNED = re.compile(r"^\s*[(\[@]|#\d+|https?://|\b[A-Z]{2,}-\d+\b")
"""Somebody's name behind the marker, or a ticket anywhere."""

GIVES_PARAMETERS = {"argument", "command", "fixture", "option", "overload", "parametrize"}
"""Decorators of functions that a framework calls by name: their parameters are its options."""

NAMED_DEFINITIONS = 4
SHORT_BODY_LINES = 5
# A function of so few lines says what it does by its name.


def very_long_functions(source: Source, limits: Limits) -> Found:
    """Functions of more than twice the limit."""
    for function, lines in _functions_over(source, limits):
        if lines > 2 * limits.function_lines:
            yield function.lineno, f"{function.name!r} is {lines} lines long; the limit is {limits.function_lines}."


def long_functions(source: Source, limits: Limits) -> Found:
    """Functions over the limit, up to twice of it."""
    for function, lines in _functions_over(source, limits):
        if lines <= 2 * limits.function_lines:
            yield function.lineno, f"{function.name!r} is {lines} lines long; the limit is {limits.function_lines}."


def _functions_over(source: Source, limits: Limits) -> Iterator[tuple[FunctionNode, int]]:
    if not source.is_test:  # a test may tell a long story
        sized = ((function, code_lines(function)) for function in source.functions)
        yield from ((function, lines) for function, lines in sized if lines > limits.function_lines)


def complex_functions(source: Source, limits: Limits) -> Found:
    """Functions with more paths than anybody tests."""
    for function in source.functions:
        paths = complexity(function)
        if paths > limits.complexity:
            yield function.lineno, f"{function.name!r} has {paths} independent paths; the limit is {limits.complexity}."


def deep_nesting(source: Source, limits: Limits) -> Found:
    """Functions whose control blocks stand deeper in one another than the limit; one finding for each."""
    for function in source.functions:
        depth, line = _deepest(function.body, 0)
        if depth > limits.nesting:
            yield line, f"{function.name!r} nests {depth} blocks here; the limit is {limits.nesting}."


def _deepest(statements: list[ast.stmt], depth: int) -> tuple[int, int]:
    """The greatest depth among statements, and its first line."""
    deepest = (depth, statements[0].lineno if statements else 0)
    for statement in statements:
        for block, is_deeper in _blocks(statement):
            found = _deepest(block, depth + is_deeper)
            deepest = max(deepest, found, key=lambda one: one[0])
    return deepest


def _blocks(statement: ast.stmt) -> Iterator[tuple[list[ast.stmt], bool]]:
    """The blocks inside a statement, and whether a reader counts them as one level deeper."""
    match statement:
        case ast.If(body=body, orelse=orelse):
            yield body, True
            is_elif = len(orelse) == 1 and isinstance(orelse[0], ast.If)
            yield orelse, not is_elif
        case ast.For() | ast.AsyncFor() | ast.While():
            yield statement.body, True
            yield statement.orelse, True
        case ast.With() | ast.AsyncWith():
            yield statement.body, False  # what it holds open is not a decision
        case ast.Try() | ast.TryStar():
            yield from ((block, True) for block in (statement.body, statement.orelse, statement.finalbody))
            yield from ((handler.body, True) for handler in statement.handlers)
        case ast.Match(cases=cases):
            yield from ((case.body, True) for case in cases)


def many_parameters(source: Source, limits: Limits) -> Found:
    """Functions that take more positional parameters than a caller can keep apart."""
    for function in source.functions:
        if source.is_test or _is_called_by_name(function):
            continue
        positional = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        count = len(positional) - (bool(positional) and positional[0] in ("self", "cls"))
        if count > limits.parameters:
            text = f"{function.name!r} takes {count} positional parameters"
            yield function.lineno, f"{text}. Make the rest keyword-only, or one value."


def _is_called_by_name(function: FunctionNode) -> bool:
    decorators = (node.func if isinstance(node, ast.Call) else node for node in function.decorator_list)
    return any(dotted(decorator).rpartition(".")[2] in GIVES_PARAMETERS for decorator in decorators)


def missing_docstrings(source: Source, limits: Limits) -> Found:
    """Public definitions that say nothing of themselves; one finding for a file."""
    if source.is_test or not source.tree.body or _is_private(source):
        return
    public = list(_public(source.tree))
    silent = [node for node in public if ast.get_docstring(node, clean=False) is None]
    if silent:
        named = ", ".join(node.name for node in silent[:NAMED_DEFINITIONS])
        more = f" and {len(silent) - NAMED_DEFINITIONS} more" if len(silent) > NAMED_DEFINITIONS else ""
        counted = f"{len(silent)} of {len(public)} public classes and functions"
        yield silent[0].lineno, f"{counted} have no docstring: {named}{more}."


def _is_private(source: Source) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in source.path.parts)


def _public(around: ast.Module | ast.ClassDef) -> Iterator[FunctionNode | ast.ClassDef]:
    """Classes, and functions long enough to need words, that are part of a module's face."""
    for node in around.body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield node
            yield from _public(node)
        elif code_lines(node) > SHORT_BODY_LINES and not _is_told_elsewhere(node):
            yield node


def _is_told_elsewhere(function: FunctionNode) -> bool:
    """An override, an overload or a setter: what it does is said where it was first declared."""
    decorators = {dotted(node).rpartition(".")[2] for node in function.decorator_list}
    return not decorators.isdisjoint({"override", "overload", "setter", "deleter"})


def unowned_markers(source: Source, limits: Limits) -> Found:
    """A TODO, FIXME, XXX or HACK without a name or a ticket."""
    for line, comment in source.comments:
        found = MARKER.match(comment)
        if found and not OWNED.search(found["rest"]):
            said = found["rest"].strip(" :-–")
            quoted = f": {said[:60]}{'…' if len(said) > 60 else ''}" if said else ""
            yield line, f"{found['marker']} without a name or a ticket{quoted}"


def long_files(source: Source, limits: Limits) -> Found:
    """A file that holds more than one subject, by its length."""
    count = len(source.lines)
    if count > limits.file_lines and not source.is_test:
        yield 1, f"the file is {count:,} lines long; the limit is {limits.file_lines:,}."
