"""Commands that show traffic: links, their state, and how much passes over them."""
