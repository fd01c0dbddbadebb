"""The stored model: records, their keys, labels, codec and snapshots. No I/O."""
