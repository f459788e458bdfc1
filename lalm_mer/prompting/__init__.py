"""From an example to a conversation: prompt files, audio slots, and data that never becomes prompt structure."""
