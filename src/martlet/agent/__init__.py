"""The daemon on every node: runs sessions, moves them, reports load, takes orders. Nothing clever inside."""
