"""What leaves the house after a commit: hook events now, e-mails later."""
