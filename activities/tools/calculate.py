"""The built-in tool `calculate`: arithmetic, and nothing else that Python can do.

Law: every expression ends at once. Size and depth are bounded before anything is computed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from activities.tools.context import ToolFailed
from workflows.errors import cut

Number = int | float

EXPRESSION_CHARACTERS = 1_000
MAX_BITS = 4_000
# Whole numbers of about 1,200 digits; JSON has no limit, but readers do.
MAX_DIGITS = 300
# As second argument of round().
MAX_DEPTH = 100

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
CONSTANTS: dict[str, float] = {"e": math.e, "pi": math.pi, "tau": math.tau}


def calculate(expression: str) -> int | float:
    """Compute an arithmetic expression: + - * / // % ** and parentheses, whole and decimal numbers, pi, e, tau.

    Functions: abs, ceil, cos, exp, floor, log, log10, log2, max, min, round, sin, sqrt, tan.

    Args:
        expression: For example '2 * (3 + 4) ** 2' or 'round(sqrt(2), 3)'.
    """
    if len(expression) > EXPRESSION_CHARACTERS:
        raise ToolFailed(
            f"the expression has {len(expression):,} characters and the limit is {EXPRESSION_CHARACTERS:,}."
        )
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ToolFailed(f"{cut(expression)!r} cannot be computed: {reason}.") from None
    except ArithmeticError as error:
        raise ToolFailed(f"{cut(expression)!r} has no value: {error.args[-1]}.") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolFailed(f"{cut(expression)!r} has no finite value.")
    return value


def _value(node: ast.expr, depth: int) -> Number:
    """The value of an expression. Raises ValueError, in a fragment of a sentence."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests more than {MAX_DEPTH} levels deep")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in UNARY:
            value = UNARY[type(sign)](_value(operand, depth + 1))
            return _bounded(value)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in BINARY:
            return _combined(type(sign), _value(left, depth + 1), _value(right, depth + 1))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return _called(name, [_value(argument, depth + 1) for argument in arguments])
    raise ValueError(f"{cut(ast.unparse(node))!r} is no arithmetic")


def _combined(sign: type[ast.operator], left: Number, right: Number) -> Number:
    if sign is ast.Pow and isinstance(left, int) and isinstance(right, int) and abs(left) > 1 and right > 0:
        # Before it is computed: 9 ** 9 ** 9 would not end.
        _refuse_large(right if right > MAX_BITS else int(right * math.log2(abs(left))))
    return _bounded(BINARY[sign](left, right))


def _called(name: str, arguments: list[Number]) -> Number:
    if name == "round" and len(arguments) == 2 and abs(arguments[1]) > MAX_DIGITS:
        raise ValueError(f"round() takes at most {MAX_DIGITS} digits")
    try:
        return _bounded(FUNCTIONS[name](*arguments))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _bounded(value: Any) -> Number:
    if isinstance(value, complex):
        raise ValueError("its value is a complex number")  # noqa: TRY004 - a fault of the expression, not of a type
    if isinstance(value, int):
        _refuse_large(value.bit_length())
    number: Number = value
    return number


def _refuse_large(bits: int) -> None:
    if bits > MAX_BITS:
        raise ValueError(f"a whole number in it has more than {MAX_BITS:,} bits")
