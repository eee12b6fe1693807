"""Everything drawn for a person."""
