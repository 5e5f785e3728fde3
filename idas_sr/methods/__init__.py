"""What is trained: the two pre-training tasks and the restoration methods."""
