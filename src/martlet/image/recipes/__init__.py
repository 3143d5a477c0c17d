"""The recipes of Martlet's images, as package data. No code lives here."""
