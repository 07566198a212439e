"""A Python file, read and parsed once for all rules."""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.Lambda, ast.ClassDef)

NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
# What parsing raises: for a mistake, for null bytes, for a nesting that no parser holds.

DIGEST_LENGTH = 16
# Of a SHA-256 in hex: 64 bits tell whether a file was edited.

NOQA = re.compile(r"#\s*noqa(?::\s*(?P<codes>[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*))?", re.IGNORECASE)


def digest(content: bytes) -> str:
    """What tells this content from any other."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


@dataclass(frozen=True)
class Source:
    """A parsed file. Reading it never runs it."""

    path: PurePosixPath
    text: str
    tree: ast.Module

    @classmethod
    def parsed(cls, path: str, content: bytes) -> Source:
        """Raises SyntaxError, ValueError (null bytes), RecursionError where it is no Python that can be read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in the file is not ours to print
            tree = ast.parse(content, filename=path)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return cls(PurePosixPath(path), content.decode(encoding), tree)

    @cached_property
    def lines(self) -> list[str]:
        """The text by line; line n is at n - 1."""
        return self.text.splitlines()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node."""
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> list[FunctionNode]:
        """Every function and method."""
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node around each node."""
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """Line and text of each comment."""
        reader = io.StringIO(self.text).readline
        try:
            return [
                (token.start[0], token.string)
                for token in tokenize.generate_tokens(reader)
                if token.type == tokenize.COMMENT
            ]
        except (tokenize.TokenError, SyntaxError):
            return []  # what parses tokenizes, but for odd line ends; such a file has no comments to judge

    @cached_property
    def comment_lines(self) -> frozenset[int]:
        """The lines that hold a comment."""
        return frozenset(line for line, _ in self.comments)

    @property
    def is_test(self) -> bool:
        """Whether the file holds tests, or serves them."""
        name = self.path.name
        is_named_so = name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"
        return is_named_so or bool({"test", "tests", "testing"}.intersection(self.path.parts[:-1]))

    def scope_of(self, node: ast.AST) -> ast.AST:
        """The function, class or module that a node stands in."""
        around = self.parents.get(node)
        while around is not None and not isinstance(around, SCOPES):
            around = self.parents.get(around)
        return around or self.tree

    def is_accepted(self, line: int, codes: tuple[str, ...]) -> bool:
        """Whether a `noqa` comment on the line accepts one of these codes, or everything."""
        found = NOQA.search(self.lines[line - 1]) if 0 < line <= len(self.lines) else None
        if found is None:
            return False
        named = found["codes"]
        return named is None or not set(re.split(r"[,\s]+", named.upper())).isdisjoint(codes)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function that are its own: not those of functions and classes inside it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, SCOPES):
            waiting.extend(ast.iter_child_nodes(node))


def dotted(node: ast.AST | None) -> str:
    """`a.b.c` as written; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is a text alone."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def complexity(function: FunctionNode) -> int:
    """Independent paths through a function (McCabe, 1976); functions inside it count for themselves."""
    return 1 + sum(_branches(node) for node in own_nodes(function))


def _branches(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler() | ast.IfExp():
            return 1
        case ast.comprehension(ifs=conditions):
            return 1 + len(conditions)
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):
            return 0  # `case _:` is the else of its match
        case ast.match_case():
            return 1
        case _:
            return 0


def code_lines(function: FunctionNode) -> int:
    """Lines from `def` to the end, without the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring(first) else 0)
