"""Models with a state of their own, step by step in time; the rules of the same names learn with them."""
