"""Training of one trial: hyperparameters, network, epochs, outcome."""
