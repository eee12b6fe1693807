"""One trial: params become a network, epochs and an outcome."""
