"""The files with which a new method starts."""
