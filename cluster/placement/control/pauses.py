"""The controller's times around a tick."""

LOOK_S = 0.3
"""A tick takes those who answer within this; the others are a tick older."""
SHORTEST_PAUSE_S = 0.2
"""Between two ticks, however much happens."""
