"""A server of tools over MCP that breaks the protocol: `python -m tests.rogue_mcp_server '{"<method>": "<line>"}'`.

It answers a method with the line given for it, in which ID becomes the request's id and $NAME the variable's value; one
without a line as a server should, with one tool `t`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

ANSWERS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "rogue", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": "ok"}]},
}


def answer(lines: dict[str, str], method: str, number: Any) -> str:
    """The line that a request is answered with."""
    if method in lines:
        return os.path.expandvars(lines[method]).replace("ID", json.dumps(number))
    if method not in ANSWERS:
        return json.dumps({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "Method not found"}})
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": ANSWERS[method]})


def main() -> None:
    """Serve."""
    lines: dict[str, str] = json.loads(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "method" in request and "id" in request:
            print(answer(lines, request["method"], request["id"]), flush=True)


if __name__ == "__main__":
    main()
