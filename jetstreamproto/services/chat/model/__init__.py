"""The rules of chat: names, texts, rooms, who may do what, how fast."""
