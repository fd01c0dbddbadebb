"""Convergence of a deployed stack: what Swarm and Linkwire have of it, judged until every link is wired."""
