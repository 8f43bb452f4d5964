"""`guardtrail doctor --coverage` on real agents of the frameworks that are here: one that a guard stands before, one it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.adapters import installed

ROOT = Path(__file__).resolve().parents[2]
POLICY = """guardtrail: 1
name: p
owner: o@acme.example
tools: {look: {effect: read, control: {order: id}}}
intents: {i: {description: d, allow: {look: {args: {order: {any: true}}}}}}
"""
HEAD = """
from guard import Guard, LocalIssuer
guard = Guard("policy.yaml", trust=LocalIssuer("x"))

def look(order: str) -> str:
    \"\"\"Look up an order.

    Args:
        order: which
    \"\"\"
    return order

"""
APPS = {
    "plain": """
from guard.adapters.plain import Toolbox
good, bad = Toolbox(guard, [look]), [look]
""",
    "langchain": """
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from guard.adapters.langchain import GuardMiddleware
model = FakeListChatModel(responses=["x"])
good, bad = create_agent(model, [look], middleware=[GuardMiddleware(guard)]), create_agent(model, [look])
""",
    "openai_agents": """
from agents import Agent, function_tool
from guard.adapters.openai_agents import guard_agent
bad = Agent(name="a", tools=[function_tool(look)])
good = guard_agent(Agent(name="b", tools=[function_tool(look)]), guard)
""",
    "pydantic_ai": """
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from guard.adapters.pydantic_ai import GuardCapability
good, bad = Agent(TestModel(), tools=[look], capabilities=[GuardCapability(guard)]), Agent(TestModel(), tools=[look])
""",
    "fastmcp": """
from fastmcp import FastMCP
from guard.adapters.fastmcp import GuardMiddleware
good, bad = FastMCP("a", middleware=[GuardMiddleware(guard)]), FastMCP("b")
good.tool(look), bad.tool(look)
""",
}


@pytest.mark.parametrize("name", [name for name in APPS if installed(name)])
@pytest.mark.parametrize(("which", "code"), [("good", 0), ("bad", 1)])
def test_real_agents(name: str, which: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "app.py").write_text(HEAD + APPS[name])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from guard.cli import main; main()", "doctor", "--coverage", f"app:{which}"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "look" in done.stdout
