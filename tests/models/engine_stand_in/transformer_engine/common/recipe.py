"""Only the names are asked for."""


class DelayedScaling:
    pass
