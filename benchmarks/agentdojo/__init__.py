"""Recorded attacks of AgentDojo through the real guard, under policies written from prompts and tool schemas."""
