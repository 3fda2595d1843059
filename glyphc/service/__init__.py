"""The HTTP service: ``app`` answers requests, ``worker`` evaluates in processes of its own, ``client`` talks to it.

``settings`` and ``store`` hold what is configured and what must survive a restart, ``jobs`` decides what runs when.
"""
