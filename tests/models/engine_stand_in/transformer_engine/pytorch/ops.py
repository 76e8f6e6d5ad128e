"""Only the names are asked for, in annotations."""


class Sequential:
    pass


class FusibleOperation:
    pass
