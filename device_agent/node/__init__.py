"""Composition: the agent, its service, configuration and version."""
