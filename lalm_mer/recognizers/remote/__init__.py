"""A model behind a server as a recognizer: messages, label scores, and a journal of the answers."""
