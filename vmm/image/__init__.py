"""Disks to boot, made of Debian's packages: without root, and without running what is in them.

Built on the lab's parts, which fetch packages and write file systems in the same way.
"""
