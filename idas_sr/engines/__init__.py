"""Folders restored by several processes: claims, workers of one machine, and Ray beyond it."""
