"""A small Kubernetes: an API server over HTTPS, and a kubelet that runs containers as processes of this host.

``python -m executor_conformance.backends.kubernetes.emulator --folder DIR`` starts it; ``client`` controls it.
What differs from a cluster: volumes are accepted and not mounted; there is one node and no network of its own, so
that every pod has the address 127.0.0.1; limits on memory and CPU are not enforced; a container's main process is
not process 1 of a PID namespace, so that SIGTERM ends it also if it has no handler.
"""
