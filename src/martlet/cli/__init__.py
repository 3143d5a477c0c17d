"""The command line: one file a noun; a command parses, makes one call and renders. Only this package prints."""
