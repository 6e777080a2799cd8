"""anyio tasks, sockets, HTTP, timers: drives the cores, decides nothing."""
