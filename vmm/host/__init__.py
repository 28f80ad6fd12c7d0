"""The host's ends of devices: terminals, files, sockets."""
