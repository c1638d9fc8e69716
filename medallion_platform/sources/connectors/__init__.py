"""Where records come from: a module, or a folder of some, for each kind of place."""
