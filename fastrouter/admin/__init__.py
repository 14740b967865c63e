"""What operators and machines ask of a router: probes, metrics, the status page; on ports of their own."""
