"""DNS answers for the names of a task's links, given inside the task's own network namespace."""
