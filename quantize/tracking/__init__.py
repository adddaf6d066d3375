"""Finished runs in an MLflow tracking store, beside the experiments that made the float models.

Read in this order: `recording` (the verb, and what goes where), `record` (a report as parameters,
metrics and tags), `store` (the one door to MLflow). docs/tracking.md lists the names.
"""
