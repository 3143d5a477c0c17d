"""A session on one node: its place (folders, mounts, network, cgroup), its start, and what can be seen of it."""
