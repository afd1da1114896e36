"""Board definitions, images and flashing."""
