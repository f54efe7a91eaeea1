"""The report of a simulation: figures with intervals, a page, a JSON file and pictures."""
