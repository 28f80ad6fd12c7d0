"""Reaching a machine from another process: the sockets of running machines, and their clients."""
