"""Training as the survey's systems do it: other mechanisms for a step, between the same client and server."""
