"""Backbones: their definition, discovery, weights and the cost of their stages."""
