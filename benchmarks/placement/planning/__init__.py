"""Measures the planner: alone, and in simulated clusters."""
