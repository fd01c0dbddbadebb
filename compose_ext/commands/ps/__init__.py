"""`docker linkwire ps`, and its tables: a line for each link, or for each pair of tasks."""
