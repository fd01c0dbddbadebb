"""Linkwire's own stack: installed, renewed and removed."""
