"""Cost control of production AI agents."""
