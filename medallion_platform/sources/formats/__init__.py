"""How to read records from files and messages: a module for each format, and what they share."""
