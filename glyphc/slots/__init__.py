"""Programs whose numbers stand in slots: leveled CKKS, one ciphertext per feature, polynomials for nonlinearities."""
