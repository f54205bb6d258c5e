"""How the bundled models are trained; maintainers run it, no wheel holds it."""
