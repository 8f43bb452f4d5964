"""The shop on FastMCP. As a script it serves stdio."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError

from guard.adapters.fastmcp import GuardMiddleware
from tests.adapters.shop import Shop, add_tools
from tests.patience import patient


def make(shop: Shop, **options: Any) -> FastMCP:
    server = FastMCP("shop", middleware=[GuardMiddleware(shop.guard(), **options)])
    add_tools(server, shop, Context, ToolError)
    return server


if __name__ == "__main__":
    patient()
    make(Shop(Path(sys.argv[1]), "shop_fastmcp")).run("stdio", show_banner=False)
