"""Programs that run inside a session or in the client machine: one file each, the standard library only."""
