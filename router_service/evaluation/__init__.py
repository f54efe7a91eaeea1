"""Evaluation of adapters, mixtures and routers on JSON lines, through the engine that serves."""
