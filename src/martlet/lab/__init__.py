"""A whole cluster on one machine: each node a set of namespaces with the real agent in it. An edge: nothing imports it
but commands and tests."""
