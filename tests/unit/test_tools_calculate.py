"""`calculate`: arithmetic, bounded, and nothing else."""

from __future__ import annotations

import pytest

from activities.tools import ToolFailed
from activities.tools.calculate import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * (3 + 4) ** 2", 98),
        (" -7 // 2 ", -4),
        ("7 % 4 + 1.5", 4.5),
        ("2 ** -1", 0.5),
        ("round(sqrt(2), 3)", 1.414),
        ("max(1, 2, 3.5) - min(4, abs(-3))", 0.5),
        ("cos(0) + log(e) + log10(1000) + log2(8) + floor(tau) + ceil(pi)", 1 + 1 + 3 + 3 + 6 + 4),
        ("2 ** 3999", 2**3999),
        ("(-1) ** 9 ** 1200", -1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calculate_computes(expression: str, value: float) -> None:
    """Precedence, whole numbers of any reasonable size, decimals, functions and constants."""
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "'' cannot be computed: invalid syntax."),
        ("1 +", "'1 +' cannot be computed: invalid syntax."),
        ("1 / 0", "'1 / 0' has no value: division by zero."),
        ("1e308 * 10", "'1e308 * 10' has no finite value."),
        ("1e308 ** 2", "'1e308 ** 2' has no value: Numerical result out of range."),
        ("sqrt(-1)", "'sqrt(-1)' cannot be computed: math domain error."),
        ("(-8) ** 0.5", "'(-8) ** 0.5' cannot be computed: its value is a complex number."),
        ("9 ** 9 ** 9", "'9 ** 9 ** 9' cannot be computed: a whole number in it has more than 4,000 bits."),
        (
            "2 ** 3999 * 2 ** 3999",
            "'2 ** 3999 * 2 ** 3999' cannot be computed: a whole number in it has more than 4,000 bits.",
        ),
        ("round(5, -10 ** 9)", "'round(5, -10 ** 9)' cannot be computed: round() takes at most 300 digits."),
        ("abs()", "'abs()' cannot be computed: abs() takes exactly one argument (0 given)."),
        ("True + 1", "'True + 1' cannot be computed: 'True' is no arithmetic."),
        ("'a' * 3", "\"'a' * 3\" cannot be computed: \"'a'\" is no arithmetic."),
        ("x", "'x' cannot be computed: 'x' is no arithmetic."),
        ("(1).real", "'(1).real' cannot be computed: '1 .real' is no arithmetic."),
        ("__import__('os')", "\"__import__('os')\" cannot be computed: \"__import__('os')\" is no arithmetic."),
        ("[1][0]", "'[1][0]' cannot be computed: '[1][0]' is no arithmetic."),
        ("-" * 150 + "1", f"'{'-' * 150}1' cannot be computed: it nests more than 100 levels deep."),
        ("(" * 150, f"'{'(' * 150}' cannot be computed: '(' was never closed."),
        ("1" * 1_001, "the expression has 1,001 characters and the limit is 1,000."),
    ],
)
def test_calculate_refuses(expression: str, told: str) -> None:
    """What is no arithmetic, has no value or would never end is told at once."""
    with pytest.raises(ToolFailed) as failed:
        calculate(expression)
    assert str(failed.value) == told
