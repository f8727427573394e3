"""The audit: whether a forget set can still be told from data that the model never saw."""
