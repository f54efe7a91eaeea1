"""Machine code for the CPU, generated and compiled at run time."""
