"""Single-step injection cases of InjecAgent through the real guard: one generic policy, one intent per user tool."""
