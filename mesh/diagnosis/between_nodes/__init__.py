"""Walk between two nodes along node encryption: its facts, and its stages."""
