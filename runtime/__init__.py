"""How perdure reaches Temporal: what the worker, the command and the users' own programs share.

Law: importing this package loads no SDK, so that reading a setting or printing a help text stays quick. `connect` loads
it when it is called, `PerdurePlugin` when it is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.connect import connect

# Imported here, not on first use: a later `import runtime.connect` would put the module under the function's name.

if TYPE_CHECKING:
    from runtime.plugin import PerdurePlugin

__all__ = ["PerdurePlugin", "connect"]


def __getattr__(name: str) -> Any:
    if name != "PerdurePlugin":
        raise AttributeError(f"module 'runtime' has no attribute {name!r}; it exports 'PerdurePlugin' and 'connect'.")
    from runtime.plugin import PerdurePlugin

    return PerdurePlugin
