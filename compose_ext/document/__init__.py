"""YAML documents with places."""
