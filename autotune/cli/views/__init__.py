"""What the commands print of their results."""
