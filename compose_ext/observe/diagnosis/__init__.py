"""Commands that gather what Linkwire's parts say of themselves."""
