"""Coding agents: Claude Code, Codex, Gemini CLI, Cursor. What their hooks send, what they are answered, the resident daemon, the settings.

`guardtrail hook serve` is the daemon, `guardtrail hook install` writes the line that talks to it. docs/coding-agents.md, docs/design/0012.
"""
