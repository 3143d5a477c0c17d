"""Programs that run inside a session or in the client machine, with the standard library (and `martlet.rfb`) only."""
