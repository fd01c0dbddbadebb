"""The page of `docker linkwire ui`: what the agents measured, as a graph, lists and a timeline."""
