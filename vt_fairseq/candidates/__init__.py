"""How likely candidate texts are."""
