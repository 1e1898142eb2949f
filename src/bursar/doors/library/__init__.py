"""The library door: Bursar inside the agent's own process, around the HTTP client that its SDK already has."""
