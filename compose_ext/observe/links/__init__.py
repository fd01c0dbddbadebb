"""Tables of `docker linkwire ps`: a line for each link, or for each pair of tasks."""
