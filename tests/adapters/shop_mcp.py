"""The shop on the MCP SDK's own server. As a script it serves stdio."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from guard.adapters.mcp_server import GuardMiddleware
from tests.adapters.shop import Shop, add_tools
from tests.patience import patient


def make(shop: Shop, **options: Any) -> MCPServer:
    server = MCPServer("shop", version="1", middleware=[GuardMiddleware(shop.guard(), **options)])
    add_tools(server, shop, Context, ToolError)
    return server


if __name__ == "__main__":
    patient()
    make(Shop(Path(sys.argv[1]), "shop_mcp")).run("stdio")
