"""Export a trial as a verified bundle, and predict with a bundle."""
