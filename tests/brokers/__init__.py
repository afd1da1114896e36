"""The main job on several brokers."""
