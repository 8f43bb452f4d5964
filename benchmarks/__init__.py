"""Measured promises: every row is a ratio against a reference of the same run, so that a busy machine does not lie."""
