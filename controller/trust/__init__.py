"""Trust in nodes: their keys and reports judged, and the signed writes that rest on them."""
