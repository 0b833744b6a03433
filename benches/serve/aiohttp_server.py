"""The aiohttp contender: ``python -m benches.serve.aiohttp_server ROOT HOST PORT`` serves the files below ROOT."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop
from aiohttp import web


def application(root: Path) -> web.Application:
    """GET and HEAD of files by their path."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(root / request.match_info["path"])

    made = web.Application()
    made.router.add_get("/{path:.*}", serve)
    return made


if __name__ == "__main__":
    uvloop.install()
    web.run_app(application(Path(sys.argv[1])), host=sys.argv[2], port=int(sys.argv[3]), access_log=None, print=None)
