"""This node's Docker: containers, their network namespaces, and the start gate."""
