"""The mother: leads by lease, keeps the picture of the cluster, places sessions and passes orders on to the agents."""
