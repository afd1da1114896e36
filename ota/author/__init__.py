"""From source to a signed update: building, ahead-of-time images, templates."""
