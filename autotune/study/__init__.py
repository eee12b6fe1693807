"""A study on disk: its record and driver; run, resume and evaluate it."""
