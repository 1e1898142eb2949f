"""The semantic cache's decisions: `eligible` asks whether, `guard` and `score` which answer, `calibrate` when. Pure."""
