"""LocalStack as the control plane of Lambda: in a process of this host with a runner of ours, or as a container."""
