"""Records that controllers alone read: their secrets, and their notes on them."""
