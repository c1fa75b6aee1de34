"""The NHA operator: front door (`op`), definition (`reference`), plain-torch form (`chunked`) and its state."""
