"""`device-agent run`: trying modules on a desk."""
