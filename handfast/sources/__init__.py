"""Where a service's credentials come from: a directory, an agent's socket, or whoever publishes."""
