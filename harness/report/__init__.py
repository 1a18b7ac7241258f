"""What is left of a run: report.json, summary.md, the terminal matrix."""
