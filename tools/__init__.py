"""Tools that `make` runs before the project is installed; they need the standard library alone."""
