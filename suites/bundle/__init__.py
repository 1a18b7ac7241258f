"""The Dag bundle that each environment gets a copy of."""
