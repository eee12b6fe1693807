"""Reports, charts, and integrations that display a study."""
