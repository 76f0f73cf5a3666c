"""Structures, neighbours and padded batches: everything on the host, in NumPy."""
