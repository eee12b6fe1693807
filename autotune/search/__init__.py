"""What may be tried, what is tried next, and what it costs."""
