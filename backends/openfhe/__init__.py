"""The real backend: OpenFHE executes schedules on ciphertexts.

Rooms: ``library`` loads OpenFHE; ``contexts`` turns parameters into crypto contexts; ``ring`` and ``bridge`` reach raw
coefficients; ``linear``, ``switch`` and ``bootstrap`` are the three kinds of work; ``server`` puts them together and
needs
no secret; ``client`` holds the secret and is never imported by the server's modules.
"""
