"""Mutants: the product with one defence taken away, each of which a named test must notice (`make mutants`)."""
