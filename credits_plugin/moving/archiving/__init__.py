"""`credits archive`: old transfers move out to files, proven before a row is removed and provable ever after."""
