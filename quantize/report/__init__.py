"""The evidence, for machines (report.json) and for people (summary.txt, report.html)."""
