"""What the shop promises about its prices."""

import unittest

import prices


class Prices(unittest.TestCase):
    def test_gross_rounds_half_up(self) -> None:
        self.assertEqual([prices.gross(net) for net in (100, 50, 99)], [119, 60, 118])

    def test_total_sums_up_rounded_lines(self) -> None:
        self.assertEqual(prices.total([(50, 3), (100, 1)]), 299)

    def test_nothing_costs_nothing(self) -> None:
        self.assertEqual(prices.total([]), 0)
