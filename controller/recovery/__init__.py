"""Recovery: a start that hears nodes first, repair of records, and restore of a lost store."""
