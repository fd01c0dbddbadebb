"""Commands that look: none of them changes anything that was there before."""
