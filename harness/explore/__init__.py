"""What looks for the failures that nobody wrote a case for: the crash sweep and drawn sequences."""
