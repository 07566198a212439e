"""`python -m tests.provider --port 0 --script FILE --ledger FILE`: says where it serves, then serves until killed."""

from __future__ import annotations

import argparse
import asyncio
import json
import runpy
from pathlib import Path

from tests.provider.server import Provider


def main() -> None:
    """Serve a script."""
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description="A scripted model provider.")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--script", type=Path, required=True, help="a Python file that defines `script`")
    parser.add_argument("--ledger", type=Path, required=True, help="the SQLite file to count in")
    given = parser.parse_args()
    script = runpy.run_path(str(given.script)).get("script")
    if not callable(script):
        parser.error(f"{given.script} defines no function 'script' (request, number) -> reply.")
    asyncio.run(_serve(given.port, script, given.ledger))


async def _serve(port: int, script: object, ledger: Path) -> None:
    async with Provider.serve(script, port=port, ledger=ledger) as provider:  # type: ignore[arg-type]  # the user's
        print(json.dumps({"port": provider.port, "url": provider.url()}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
