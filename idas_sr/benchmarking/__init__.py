"""How fast restoration is, part by part, against other networks in the same process."""
