"""Which images exist: sources yield ImageRecords, a manifest holds them in shard order."""
