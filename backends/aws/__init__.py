"""Environments of the Amazon executors: ECS, Batch and Lambda."""
