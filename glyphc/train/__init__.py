"""Training: step programs (forward, loss gradient, backward, update) from networks, in the clear and encrypted."""
