"""Formats of exported models: how each is written, run in a process of its own, and timed."""
