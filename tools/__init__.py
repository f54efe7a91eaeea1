"""What `make` runs before the project is installed: the standard library is all that is there."""
