"""Evaluation on several machines: passes of a batch are tasks on Dask workers.

Only bytes, numbers and texts cross, and the functions of :mod:`.worker`, by name. No secret is anywhere: what a worker
gets, the server of one machine has as well.
"""
