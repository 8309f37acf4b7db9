"""THE PROCESS: the only room with sockets, an event loop, threads, clocks and random seeds."""
