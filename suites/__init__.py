"""The conformance suite: catalogue, cases, pytest plugin, command line."""
