"""New connections and refusals of this node's tasks, watched for as long as somebody asks."""
