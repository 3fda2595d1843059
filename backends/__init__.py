"""Backends: they execute schedules. They know instructions and nothing of networks."""
