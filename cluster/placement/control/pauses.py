"""The controller's times around a tick."""

ANSWER_S = 0.3
"""A tick takes those who answer within this; the others are a tick older."""
SHORTEST_PAUSE_S = 0.2
"""Between two ticks, however much happens."""
DEMAND_S = 10.0
"""Between two writes of what a later controller takes over: the demand, and what was learnt."""
