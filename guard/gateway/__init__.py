"""The MCP gateway: a guard in front of any number of MCP servers. `guardtrail mcp` is its command; docs/design/0011-the-gateway.md its shape.

Not loaded by `import guard`. Needs no MCP SDK: what passes through is JSON-RPC, read once and written once.
"""
