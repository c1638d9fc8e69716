"""What kind of failure was it? Evidence of failures, and their classes; pure."""
