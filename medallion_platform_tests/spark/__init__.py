"""The wrapper script, settings and jars: everything before the first row."""
