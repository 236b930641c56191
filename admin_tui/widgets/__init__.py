"""Widgets: they draw what they are given, query nothing and know no screen."""
