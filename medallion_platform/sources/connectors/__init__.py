"""Where records come from: a module or a package for each kind of connector."""
