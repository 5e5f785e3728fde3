"""Measures restored pictures against references, by one written protocol."""
