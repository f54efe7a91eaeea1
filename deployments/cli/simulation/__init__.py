"""`braid simulate`: policies and baselines on a simulated cluster."""
