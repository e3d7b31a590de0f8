"""How a workload proves who it is before it has a certificate."""
