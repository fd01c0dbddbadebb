"""The commands of `docker linkwire`, a module each."""
