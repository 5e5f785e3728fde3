"""What is checked the day SD-Turbo's weights are at hand."""
