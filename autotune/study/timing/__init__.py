"""How long the rest of a study takes, and its time limit."""
