"""``make bench`` and ``credits bench``: speed as ratios within one interleaved run, never as a timed test."""
