"""One module a tool or kernel interface: verbs as functions, typed results, foreign errors mapped at the border."""
