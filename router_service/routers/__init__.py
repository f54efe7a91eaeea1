"""The routers: which adapters answer a prompt, with which weights."""
