"""Where trials run: the protocol, and one file an engine."""
