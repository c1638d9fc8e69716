"""Tables that take as much memory as their input says."""
