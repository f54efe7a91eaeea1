"""The demo: skills whose data this project writes itself, and what is built from them."""
