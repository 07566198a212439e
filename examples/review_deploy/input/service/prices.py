"""Prices of the shop, in cents."""

STANDARD_RATE = 19
# Per cent of VAT.


def gross(net: int) -> int:
    """A net price with VAT, rounded half up as the law asks for."""
    return (net * (100 + STANDARD_RATE) + 50) // 100


def total(lines: list[tuple[int, int]]) -> int:
    """What a basket of (net price, quantity) costs."""
    return sum(gross(net) * quantity for net, quantity in lines)
