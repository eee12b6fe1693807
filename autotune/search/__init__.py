"""Search space, choice of the next trial, and cost of a study."""
