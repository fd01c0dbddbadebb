"""One-shot program that puts the start gate into a node's Docker, takes it out, or says whether it is there."""
