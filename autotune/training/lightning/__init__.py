"""Training with Lightning: what it trains, its Trainer, its callback, and a training in phases."""
