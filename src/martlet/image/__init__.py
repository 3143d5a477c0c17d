"""Read-only root file systems: recipes, how they are built, and where they are kept. Knows no session and no node."""
