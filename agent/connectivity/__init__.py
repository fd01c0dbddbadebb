"""Connectivity test: the programs of the stack that `docker linkwire test` and `install` deploy.

They are tasks like any user's, with no right and no file of the agent's.
"""
