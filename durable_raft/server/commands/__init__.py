"""What clients ask of the node and the connection: each a function of a status or a session, no I/O."""
