"""Second turns through clients that are not a dependency of the project."""
