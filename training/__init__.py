"""Models, objectives, the loop, evaluation. Plain torch."""
