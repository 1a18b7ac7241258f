"""What is left of a run: report.json, summary.md, report.html, the terminal matrix."""
