"""What a case passes through: environment, faults, history, checker, verdicts."""
