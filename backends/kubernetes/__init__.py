"""KubernetesExecutor: pods at a Kubernetes API, emulated here with a kubelet that starts host processes."""
