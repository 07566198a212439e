"""The rules about what the code does: each looks at a parsed file and names lines.

Law: a rule that is unsure keeps silent. A report with false findings is read once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeGuard

from examples.audit.source import FUNCTIONS, FunctionNode, Source, dotted, own_nodes

Found = Iterator[tuple[int, str]]
"""Line and message."""

TELLING = re.compile(r"abort|err|exc|exit|fail|log|notif|print|report|trace|warn", re.IGNORECASE)
"""In the name of a call: it may tell of the error that is being handled."""
CONTAINERS = {
    "list",
    "dict",
    "set",
    "bytearray",
    "defaultdict",
    "deque",
    "collections.deque",
    "collections.defaultdict",
}
# fmt: off
SHADOWED = {
    "all", "any", "bool", "bytes", "dict", "enumerate", "filter", "float", "frozenset", "getattr", "int",
    "isinstance", "len", "list", "map", "max", "min", "open", "print", "range", "repr", "reversed", "round", "set",
    "setattr", "sorted", "str", "sum", "super", "tuple", "zip",
}
# fmt: on
"""Built-ins that are called everywhere. `id`, `type`, `input` and the like are common names that nobody confuses."""
BLOCKING = {
    "time.sleep": "asyncio.sleep",
    "subprocess.run": "asyncio.create_subprocess_exec",
    "subprocess.check_output": "asyncio.create_subprocess_exec",
    "subprocess.check_call": "asyncio.create_subprocess_exec",
    "requests.get": "an asynchronous client",
    "requests.post": "an asynchronous client",
    "urllib.request.urlopen": "an asynchronous client",
}
LEAVING = (ast.Return, ast.Raise, ast.Break, ast.Continue)
TASK_MAKERS = {"asyncio.create_task", "asyncio.ensure_future"}


def swallowed_interrupts(source: Source) -> Found:
    """An `except` for everything, a cancel and Ctrl-C included, whose whole body is `pass`."""
    for handler in _unexplained(source):
        if _catches_interrupts(handler) and _does_nothing(handler):
            yield handler.lineno, f"{_caught(handler)} does nothing: even a cancel and Ctrl-C vanish here."


def ignored_exceptions(source: Source) -> Found:
    """`except Exception` whose whole body is `pass`."""
    for handler in _unexplained(source):
        if not _catches_interrupts(handler) and _does_nothing(handler):
            yield handler.lineno, f"{_caught(handler)} does nothing: every error vanishes here, also those of tomorrow."


def dropped_interrupts(source: Source) -> Found:
    """An `except` for everything that goes on as if nothing had happened."""
    for handler in _unexplained(source):
        if _catches_interrupts(handler) and _drops_error(handler):
            yield handler.lineno, f"{_caught(handler)} goes on, also after a cancel or Ctrl-C, and tells nobody."


def dropped_exceptions(source: Source) -> Found:
    """`except Exception` that neither raises, nor uses the error, nor tells anybody."""
    for handler in _unexplained(source):
        if not _catches_interrupts(handler) and _drops_error(handler):
            yield handler.lineno, f"{_caught(handler)} goes on without raising, logging or using the error."


def _unexplained(source: Source) -> Iterator[ast.ExceptHandler]:
    """Handlers of broad errors, with no comment at their head, or above their `try`, that gives a reason."""
    for node in source.nodes:
        if isinstance(node, (ast.Try, ast.TryStar)) and node.lineno - 1 not in source.comment_lines:
            for handler in node.handlers:
                head = range(handler.lineno, (handler.body[0].end_lineno or handler.lineno) + 1)
                if _is_broad(handler) and source.comment_lines.isdisjoint(head):
                    yield handler


def _is_broad(handler: ast.ExceptHandler) -> bool:
    return bool(_kinds(handler) & {"", "Exception", "BaseException"})


def _catches_interrupts(handler: ast.ExceptHandler) -> bool:
    return bool(_kinds(handler) & {"", "BaseException"})


def _kinds(handler: ast.ExceptHandler) -> set[str]:
    """The names of what is caught; "" for everything."""
    if handler.type is None:
        return {""}
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {dotted(kind).removeprefix("builtins.") or ast.unparse(kind) for kind in kinds}


def _caught(handler: ast.ExceptHandler) -> str:
    return "bare `except:`" if handler.type is None else f"`except {ast.unparse(handler.type)}`"


def _does_nothing(handler: ast.ExceptHandler) -> bool:
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in handler.body
    )


def _drops_error(handler: ast.ExceptHandler) -> bool:
    return not _does_nothing(handler) and not any(_keeps_error(node, handler.name) for node in own_nodes(handler))


def _keeps_error(node: ast.AST, name: str | None) -> bool:
    match node:
        case ast.Raise():
            return True
        case ast.Name(id=used):
            return used == name
        case ast.Call(func=function):
            return TELLING.search(ast.unparse(function)) is not None
        case ast.keyword(arg="exc_info"):
            return True
        case _:
            return False


def mutable_defaults(source: Source) -> Found:
    """A default that all calls share, in a function that changes it."""
    for function in source.functions:
        changed = {name for node in ast.walk(function) for name in _changed_names(node)}
        changed -= {name for node in ast.walk(function) for name in _given_anew(node)}
        for argument, default in _defaults(function):
            if _is_container(default) and argument.arg in changed:
                text = f"{argument.arg!r} of {function.name!r} is changed, and all calls share its default."
                yield default.lineno, f"{text} Default to None and make it inside."


def _defaults(function: FunctionNode) -> Iterator[tuple[ast.arg, ast.expr]]:
    positional = [*function.args.posonlyargs, *function.args.args]
    yield from zip(positional[len(positional) - len(function.args.defaults) :], function.args.defaults, strict=True)
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if default is not None:
            yield argument, default


def _is_container(node: ast.expr) -> bool:
    literal = isinstance(node, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))
    return literal or (isinstance(node, ast.Call) and dotted(node.func) in CONTAINERS)


CHANGING = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "clear", "discard", "sort"}


def _changed_names(node: ast.AST) -> Iterator[str]:
    """Names of what a node changes in place."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in CHANGING:
            yield name
        case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
            yield name
        case ast.AugAssign(target=ast.Name(id=name)):
            yield name


def _given_anew(node: ast.AST) -> Iterator[str]:
    """Names that a plain assignment binds: what is changed may then be another object."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return (part.id for target in targets for part in ast.walk(target) if _is_bound_here(part))


def _is_bound_here(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def duplicate_keys(source: Source) -> Found:
    """A key that a dict display gives two different values: the first one is lost."""
    for node in source.nodes:
        if not isinstance(node, ast.Dict):
            continue
        seen: dict[object, ast.expr] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant):
                continue
            identity = (type(key.value), key.value)
            if identity in seen and ast.dump(seen[identity]) != ast.dump(value):
                yield key.lineno, f"key {key.value!r} stands twice in this dict, and its first value is lost."
            seen[identity] = value


def repeated_definitions(source: Source) -> Found:
    """A function or class that a second one of its name replaces before anybody could use it."""
    for scope in source.nodes:
        if not isinstance(scope, (ast.Module, ast.ClassDef, *FUNCTIONS)):
            continue
        seen: dict[str, ast.stmt] = {}
        for statement in scope.body:
            if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
                first = seen.get(statement.name)
                if first is not None and not statement.decorator_list and statement.name != "_":
                    yield statement.lineno, f"{statement.name!r} was defined in line {first.lineno} and is replaced."
                if not statement.decorator_list:  # a decorator may have registered it
                    seen[statement.name] = statement
            for name in _loaded(statement):
                if name in seen and seen[name] is not statement:
                    del seen[name]


def _loaded(statement: ast.stmt) -> Iterator[str]:
    return (node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))


def wrong_comparisons(source: Source) -> Found:
    """`== None`, and `is` with a literal."""
    for node in source.nodes:
        if not isinstance(node, ast.Compare):
            continue
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, (ast.Eq, ast.NotEq)) and isinstance(right, ast.Constant) and right.value is None:
                yield node.lineno, "compares with None by value. Write `is None` or `is not None`."
            elif isinstance(operator, (ast.Is, ast.IsNot)) and _is_valued(right):
                yield node.lineno, f"asks whether two objects are one, with the literal {ast.unparse(right)}. Write ==."


def _is_valued(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (str, bytes, int, float)


def assertions_on_tuples(source: Source) -> Found:
    """`assert (condition, "message")` is always true."""
    for node in source.nodes:
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
            yield node.lineno, "asserts a tuple, which is always true. Leave the parentheses out."


def raised_not_implemented(source: Source) -> Found:
    """`raise NotImplemented` raises a TypeError."""
    for node in source.nodes:
        if isinstance(node, ast.Raise):
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if dotted(raised) == "NotImplemented":
                yield node.lineno, "NotImplemented is no exception. Raise NotImplementedError."


def unreachable_code(source: Source) -> Found:
    """Statements after one that leaves their block."""
    for node in source.nodes:
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if not isinstance(statements, list):
                continue
            for leaving, next_one in pairwise(statements):
                if isinstance(leaving, LEAVING) and not _makes_generator(next_one):
                    yield next_one.lineno, f"never runs: line {leaving.lineno} leaves the block."
                    break


def _makes_generator(statement: ast.stmt) -> bool:
    """`return; yield`, which makes an empty generator."""
    return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in ast.walk(statement))


def jumps_out_of_finally(source: Source) -> Found:
    """`return`, `break` or `continue` in a `finally` discards the error on its way."""
    for node in source.nodes:
        if isinstance(node, ast.Try):
            for statement in node.finalbody:
                if isinstance(statement, (ast.Return, ast.Break, ast.Continue)):
                    yield statement.lineno, "leaves a `finally`, which discards an error that is on its way."


def shadowed_builtins(source: Source) -> Found:
    """A variable or function that hides a built-in which everybody calls; parameters are part of an interface."""
    seen: set[tuple[ast.AST, str]] = set()
    for node in source.nodes:
        name = _bound(node)
        scope = source.scope_of(node)
        if name in SHADOWED and not isinstance(scope, ast.ClassDef) and (scope, name) not in seen:
            seen.add((scope, name))
            yield getattr(node, "lineno", 1), f"{name!r} hides the built-in of that name."


def _bound(node: ast.AST) -> str | None:
    """The name that a node binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case _:
            return None


def blocking_calls(source: Source) -> Found:
    """A call that stops the event loop, in an `async def`."""
    for function in source.functions:
        if isinstance(function, ast.AsyncFunctionDef):
            for node in own_nodes(function):
                if isinstance(node, ast.Call) and (called := dotted(node.func)) in BLOCKING:
                    yield node.lineno, f"{called} stops the event loop of {function.name!r}. Use {BLOCKING[called]}."


def forgotten_awaits(source: Source) -> Found:
    """A coroutine that is made and thrown away: it never runs."""
    at_module = {node.name for node in source.tree.body if isinstance(node, ast.AsyncFunctionDef)}
    at_module -= {node.name for node in source.functions if isinstance(node, ast.FunctionDef)}
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = dotted(node.value.func)
            if called == "asyncio.sleep" or (called in at_module and not _is_rebound(source, called)):
                yield node.lineno, f"{called}(…) is not awaited, so it never runs."


def _is_rebound(source: Source, name: str) -> bool:
    """Whether a name may mean something else than the module's function."""
    bound = {_bound(node) for node in source.nodes if isinstance(node, ast.Name)}
    return name in bound or any(isinstance(node, ast.arg) and node.arg == name for node in source.nodes)


def forgotten_tasks(source: Source) -> Found:
    """A task that nobody holds: it may be collected before it ends, and its error is never seen."""
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and dotted(node.value.func) in TASK_MAKERS:
            yield node.lineno, "nobody keeps this task: it may vanish before it ends, and its error with it."


def shell_commands(source: Source) -> Found:
    """A command line that is put together and given to a shell."""
    for node in source.nodes:
        if not isinstance(node, ast.Call) or not dotted(node.func).startswith("subprocess."):
            continue
        is_shell = any(
            keyword.arg == "shell" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            for keyword in node.keywords
        )
        if is_shell and node.args and not isinstance(node.args[0], ast.Constant):
            yield node.lineno, "gives a shell a command line that is not fixed. Pass a list, without shell=True."


def evaluations(source: Source) -> Found:
    """`eval` or `exec` of a text that is not fixed."""
    for node in source.nodes:
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" as name), args=[text, *_]):
                if not isinstance(text, ast.Constant):
                    yield node.lineno, f"{name} runs a text that is not fixed here."
