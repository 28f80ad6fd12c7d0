"""GDB's remote protocol: a debugger on a machine, over a socket.

The layers, from the wire to the guest: `server` (sockets and the thread), `packets` (framing),
`stub` (what packets ask for), `target` (the machine as a debugger sees it), and what that is made
of: `registers`, `memory`, `points`.
"""
