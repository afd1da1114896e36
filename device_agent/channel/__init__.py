"""What agent and worker say to each other: frames, and the agent's end of a worker."""
