"""Serve: a model on a page and over HTTP."""
