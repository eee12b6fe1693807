"""A trial becomes a verified bundle; a bundle answers."""
