"""Only the names are asked for."""


class CudaRNGStatesTracker:
    pass


def activation_recompute_forward(*unused: object, **unused_too: object) -> None:
    raise NotImplementedError


checkpoint = activation_recompute_forward
