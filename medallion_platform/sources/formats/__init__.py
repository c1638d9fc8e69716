"""How records stand in files and messages: a module for each kind, and what these share."""
