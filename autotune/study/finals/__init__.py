"""The finals: the best trials are compared on other folds, and the winner becomes the final model."""
