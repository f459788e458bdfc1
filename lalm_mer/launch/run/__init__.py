"""The run itself: its folder, resuming, the engine, training and scoring."""
