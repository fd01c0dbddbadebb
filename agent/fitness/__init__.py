"""Fitness of a node for Linkwire: facts that `docker linkwire install` judges before it makes anything."""
