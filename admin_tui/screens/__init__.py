"""One file per screen. A screen reads through its backend, in async workers, and hands plain values to widgets."""
