"""Workflow rules: what a call claims from the state its task and tenant share, compiled once, asked on every call. Pure."""
