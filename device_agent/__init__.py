"""What runs on the board: the agent, and one worker process per module."""
