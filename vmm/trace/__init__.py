"""Traces: what a machine's vCPUs did, exit by exit."""
