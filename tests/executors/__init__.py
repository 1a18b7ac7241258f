"""Executors that the tests run the suite against, as users would write them."""
