"""Picture files as people have them: what they hold is kept, and what cannot be kept is said (docs/images.md)."""
