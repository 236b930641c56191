"""The commands of ``credits``, one file each."""
