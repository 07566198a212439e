"""What no message, log or history may hold: the values of variables that are secret.

Services quote the key that they refuse, programs what they were started with, and pydantic whatever it cannot read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from pydantic import ValidationError

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SECRET_LENGTH = 8
# Shorter values are words of any text, and no keys.
HIDDEN = "[secret]"
TOLD_FAULTS = 3
# Of one answer that cannot be read: the first ones say what it is instead.


def without_secrets(text: str, also: Collection[str | None] = ()) -> str:
    """A text without the values of the environment variables that are named like secrets, or are among `also`."""
    secret = {value for name, value in os.environ.items() if name in also or SECRET_NAME.search(name)}
    for value in sorted(secret, key=len, reverse=True):  # one that is the beginning of another would leave the rest
        if len(value) >= SECRET_LENGTH:
            text = text.replace(value, HIDDEN)
    return text


def without_values(error: ValidationError) -> str:
    """What pydantic found wrong, by place, without what it was given."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'the value'}: {fault['msg']}" for fault in faults[:TOLD_FAULTS]
    )
    return told if len(faults) <= TOLD_FAULTS else f"{told}; and {len(faults) - TOLD_FAULTS} more"
