"""Another model on a study's molecules, for as long as a study's run took."""
