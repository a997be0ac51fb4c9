"""Teach mixers of other libraries to be reduced."""
