"""The engine ``kernels``: vectorised ring arithmetic of our own in double precision (numba)."""
