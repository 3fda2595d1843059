"""Training runs in one process, in any mode: the loop, its checkpoints, and estimators in scikit-learn's style."""
