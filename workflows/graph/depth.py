"""How deep lists and objects are nested in each other.

Law: found level by level, so that no depth, however large, can hurt. Pure.
"""

from __future__ import annotations

from typing import Any

CONTAINERS = frozenset((dict, list, tuple))
# What has parts; exact types, because this is asked for every value of a large graph or result.


def is_deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested more than so many levels deep."""
    level = [value] if type(value) in CONTAINERS else []
    for _ in range(levels):
        level = [
            part
            for item in level
            for part in (item.values() if type(item) is dict else item)
            if type(part) in CONTAINERS
        ]
        if not level:
            return False
    return bool(level)
