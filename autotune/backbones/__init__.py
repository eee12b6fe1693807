"""What a backbone is, where it and its weights are found, what its stages cost."""
