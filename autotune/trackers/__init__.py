"""Trackers: MLflow, Weights & Biases and Trackio show studies beside other experiments."""
