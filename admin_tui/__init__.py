"""The admin terminal UI: watches and acts on the database that the hosts run on."""
