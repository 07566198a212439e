"""The rule about imports that nothing uses.

Law: an import counts as used wherever its name may be meant: in code, in `__all__`, in an annotation that is a text, in
a type comment, as a fixture of a test. What is imported to be exported, or to see whether it is there, is left alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from examples.audit.source import Source, is_docstring

Found = Iterator[tuple[int, str]]

NAME = re.compile(r"[A-Za-z_]\w*")
ANNOTATION_LIKE = re.compile(r"[\w.\[\], |\"'*]{1,200}")
# A text that may be an annotation; prose has other marks in it, or does no harm if it has not.


def unused_imports(source: Source) -> Found:
    """Names that are imported and never used."""
    if source.path.name == "__init__.py" or _only_imports(source):
        return  # a module like that is there to be imported from
    used = _used(source)
    for node in source.nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not _is_exempt(source, node):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                if name not in used and name != "*" and alias.asname != alias.name:
                    # A long import stands in several lines, and a noqa may stand in the first of them.
                    line = node.lineno if source.is_accepted(node.lineno, ("F401",)) else alias.lineno
                    yield line, f"{_written(node, alias)!r} is imported and not used in this file."


def _written(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    if isinstance(node, ast.Import):
        return alias.name
    return f"{'.' * node.level}{node.module or ''}.{alias.name}" if node.module else f"{'.' * node.level}{alias.name}"


def _only_imports(source: Source) -> bool:
    """Whether a module does nothing but import: a shim that keeps old names alive."""
    others = [statement for statement in source.tree.body if not isinstance(statement, (ast.Import, ast.ImportFrom))]
    return len(others) < len(source.tree.body) and all(map(_is_decoration, others))


def _is_decoration(statement: ast.stmt) -> bool:
    return is_docstring(statement) or (isinstance(statement, ast.Assign) and "__all__" in _names_in(statement))


def _is_exempt(source: Source, node: ast.Import | ast.ImportFrom) -> bool:
    """Whether an import is made for its effect: of the future, or to see whether a module is there."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return True
    around: ast.AST | None = node
    while around is not None:
        around = source.parents.get(around)
        if isinstance(around, ast.Try) and (around.body == [node] or any(map(_expects_absence, around.handlers))):
            return True  # tried out
        if isinstance(around, ast.If) and _names_in(around.test) & {"version_info", "platform"}:
            return True  # the same name comes from elsewhere on other versions
        if isinstance(around, ast.With) and "suppress" in ast.dump(around.items[0].context_expr):
            return True
    return False


def _expects_absence(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or bool({"ImportError", "ModuleNotFoundError", "Exception"} & _names_in(handler.type))


def _used(source: Source) -> set[str]:
    """Every name that is meant somewhere."""
    used: set[str] = set()
    for node in source.nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load() | ast.Del()):
                used.add(name)
            case ast.Constant(value=str(text)) if ANNOTATION_LIKE.fullmatch(text):
                used.update(NAME.findall(text))
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                used.update(names)
            case ast.arg(arg=name) if source.is_test:
                used.add(name)  # pytest gives a fixture by its name
    for _, comment in source.comments:
        if comment.removeprefix("#").lstrip().startswith("type:"):
            used.update(NAME.findall(comment))
    return used


def _names_in(node: ast.AST) -> set[str]:
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names | {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
