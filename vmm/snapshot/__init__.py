"""Snapshots: a machine's whole state, kept, copied, and returned to."""
