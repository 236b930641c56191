"""Beyond one machine: leases and routing between hosts, and the layout of a distributed database. See docs/scaling.md."""
