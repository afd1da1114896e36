"""One module's life: states, updates, runner, supervisor, slots, crash loop."""
