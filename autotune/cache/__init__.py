"""The pixel cache and the feature cache, keyed by content."""
