"""NATS as Martlet uses it: requests, key-value with compare-and-swap, leases, events. The only importer of nats-py."""
