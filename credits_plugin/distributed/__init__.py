"""Beyond one machine: leases and routing between hosts, and distributed databases. See docs/scaling.md."""
