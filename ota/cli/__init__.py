"""The command `ota`: one module for each group of verbs."""
