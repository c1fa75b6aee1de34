"""What can go wrong with a model that is asked for by name."""


class ModelUnavailable(ValueError):
    """No such model, a checkpoint that cannot be read, or a hub out of reach; the message is one line for a person."""
