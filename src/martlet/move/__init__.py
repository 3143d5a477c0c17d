"""One migration of one session: what may happen (`machine`), who does it (`source`, `target`), with which means."""
